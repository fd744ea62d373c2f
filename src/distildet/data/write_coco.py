"""Writes annotations, with scores where there are any, in the COCO json format."""

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from distildet.classes import ClassList
from distildet.data.image_record import ImageRecord
from distildet.data.owned_folder import write_folder

COCO_FILE = "labels.json"


def coco_document(records: Sequence[ImageRecord], classes: ClassList) -> bytes:
    """Return a COCO file, one record a line.

    Boxes are xywh in pixels; an annotation has a `score` if its image has scores. Ids count from
    1: categories in the order of the classes, images in that of the records.

    Args:
        records: Their names become `file_name`.
        classes: Of the labels.
    """
    sections: dict[str, Iterable[dict[str, Any]]] = {
        "images": _images(records),
        "annotations": _annotations(records),
        "categories": ({"id": i, "name": name} for i, name in enumerate(classes, start=1)),
    }
    # Text at once: as Python objects, a million annotations need some gigabytes.
    buffer = io.BytesIO()
    for i, (name, entries) in enumerate(sections.items()):
        buffer.write(f'{"," if i else "{"}\n"{name}": ['.encode())
        for j, entry in enumerate(entries):
            buffer.write(f"{',' if j else ''}\n{json.dumps(entry)}".encode())
        buffer.write(b"\n]")
    buffer.write(b"\n}\n")
    return buffer.getvalue()


def write_coco(folder: Path, records: Sequence[ImageRecord], classes: ClassList) -> tuple[str, ...]:
    """Write a folder with the COCO file `labels.json`; see `coco_document`.

    Args:
        folder: New, or as an earlier call left it.
        records: What to write.
        classes: Of the labels.

    Returns:
        Nothing: the format has a place for all that a record holds.

    Raises:
        ConfigError: The folder has other things in it.
        ResourceError: The disk is full.
    """
    write_folder(folder, [(COCO_FILE, coco_document(records, classes))])
    return ()


def _images(records: Sequence[ImageRecord]) -> Iterator[dict[str, Any]]:
    for image_id, record in enumerate(records, start=1):
        height, width = record.size
        yield {"id": image_id, "file_name": record.name, "width": width, "height": height}


def _annotations(records: Sequence[ImageRecord]) -> Iterator[dict[str, Any]]:
    annotation_id = 0
    for image_id, record in enumerate(records, start=1):
        scores = [None] * len(record) if record.scores is None else record.scores.tolist()
        for (x1, y1, x2, y2), label, area, crowd, score in zip(
            record.boxes.tolist(),
            record.labels.tolist(),
            record.areas.tolist(),
            record.crowd.tolist(),
            scores,
            strict=True,
        ):
            annotation_id += 1
            annotation = {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": area,
                "iscrowd": int(crowd),
            }
            yield annotation if score is None else {**annotation, "score": score}

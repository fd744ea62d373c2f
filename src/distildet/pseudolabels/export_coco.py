"""Pseudo labels as an ordinary COCO file with scores."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distildet import artefacts
from distildet.classes import ClassList
from distildet.pseudolabels.select import score_limits
from distildet.pseudolabels.store import StoredLabels


def write_coco(
    path: Path,
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    *,
    thresholds: Mapping[str, float] | None = None,
) -> None:
    """Write labels as a COCO file, atomically, one record a line.

    Boxes are xywh in pixels, and each annotation has a `score`. Ids count from 1: categories in
    the order of the classes, images in that of the labels.

    Args:
        path: Of the file.
        stored: Labels by sample id, which becomes the `file_name`.
        classes: Of the stored labels.
        thresholds: Class name -> lowest score written; None writes everything.

    Raises:
        ResourceError: The disk is full; an older file is intact.
    """
    limits = dict.fromkeys(classes, 0.0) if thresholds is None else thresholds
    sections: dict[str, Iterable[dict[str, Any]]] = {
        "images": _images(stored),
        "annotations": _annotations(stored, classes, limits),
        "categories": ({"id": i, "name": name} for i, name in enumerate(classes, start=1)),
    }
    # Text at once: as Python objects, a million annotations need some gigabytes.
    buffer = io.BytesIO()
    for i, (name, records) in enumerate(sections.items()):
        buffer.write(f'{"," if i else "{"}\n"{name}": ['.encode())
        for j, record in enumerate(records):
            buffer.write(f"{',' if j else ''}\n{json.dumps(record)}".encode())
        buffer.write(b"\n]")
    buffer.write(b"\n}\n")
    artefacts.write_bytes(path, buffer.getvalue())


def _images(stored: Mapping[str, StoredLabels]) -> Iterator[dict[str, Any]]:
    for image_id, (name, entry) in enumerate(stored.items(), start=1):
        height, width = entry.image_size
        yield {"id": image_id, "file_name": name, "width": width, "height": height}


def _annotations(
    stored: Mapping[str, StoredLabels], classes: ClassList, thresholds: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    limits = score_limits(thresholds, classes)
    annotation_id = 0
    for image_id, entry in enumerate(stored.values(), start=1):
        found = entry.detections
        kept = found.chosen(found.scores >= limits[found.labels])
        for (x1, y1, x2, y2), score, label in zip(
            kept.boxes.tolist(), kept.scores.tolist(), kept.labels.tolist(), strict=True
        ):
            annotation_id += 1
            yield {
                "id": annotation_id,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }

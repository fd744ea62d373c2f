"""Reads detections from files: a COCO results list, or a COCO file with scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distildet.classes import ClassList
from distildet.data.coco import coco_sections, read_categories, read_images
from distildet.data.coco_boxes import (
    CocoImage,
    DrawnBox,
    Record,
    is_number,
    refuse_other_conventions,
)
from distildet.data.faults import Faults
from distildet.data.json_file import read_json
from distildet.errors import DataError

_XYWH = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageResults:
    """What a file says about one image.

    Args:
        size: (height, width) of the image as the file states it.
        boxes: [n 4] float64, xyxy pixels of the image; they may leave it.
        scores: [n] float64, 0..1.
        labels: [n] int64, 0-based.
    """

    size: tuple[int, int]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """Detections of images.

    Args:
        classes: Names of the labels.
        by_name: File name, with "/" -> what was found; images without a box are there too.
    """

    classes: ClassList
    by_name: Mapping[str, ImageResults]


def read_results(file: Path, images: Path | None = None) -> Results:
    """Read detections.

    Labels follow the order of the category ids.

    Args:
        file: A list of records with image_id, category_id, bbox (x y width height in pixels) and
            score; or an object with images, annotations (records as these) and categories, as
            `distildet label` writes it.
        images: Where `file` is a list, the COCO file whose images and categories the ids are of;
            every image in it counts as processed.

    Raises:
        DataError: A file cannot be read, `images` is missing or not needed, or records are
            incomplete, contradictory or seem to follow another convention; all faults are listed,
            each kind with its first five records.
    """
    document = read_json(file)
    key = "records"
    if isinstance(document, list):
        if images is None:
            raise DataError(
                f"{file}: a list of results has ids alone. Give `images`, the COCO file (such as "
                "instances.json) that says which image and category each id is."
            )
        records, named_by = document, coco_sections(images, read_json(images), _NAMING)
    else:
        if images is not None:
            raise DataError(
                f"{images}: not needed, since {file} names images and categories itself. Leave "
                "`images` out; it is for a file that is a list of results."
            )
        named_by = coco_sections(file, document, (*_NAMING, "annotations"))
        records, key = list(named_by["annotations"]), "annotations"
    faults = Faults(images or file)
    classes, label_by_category = read_categories(named_by["categories"], faults)
    image_by_id = read_images(named_by["images"], Path(), faults)
    faults.raise_if_any()
    return Results(
        classes=classes,
        by_name=_read(file, key, records, image_by_id, label_by_category),
    )


_NAMING = ("images", "categories")


def _read(
    file: Path,
    key: str,
    records: Sequence[Any],
    image_by_id: Mapping[int, CocoImage],
    label_by_category: Mapping[int, int],
) -> dict[str, ImageResults]:
    faults = Faults(file)
    rows: dict[int, list[tuple[float, ...]]] = {image_id: [] for image_id in image_by_id}
    drawn: list[DrawnBox] = []
    for place, record in enumerate(records):
        where = f"{key}[{place}]"
        if not isinstance(record, dict):
            faults.add(f"{key}: each must be an object", f"{where} is {record!r:.80}")
            continue
        image_id = _known_id(record, "image_id", image_by_id, where, faults)
        category_id = _known_id(record, "category_id", label_by_category, where, faults)
        xywh = _box(record, where, faults)
        score = _score(record, where, faults)
        if None in {image_id, category_id} or xywh is None or score is None:
            continue
        drawn.append(DrawnBox(where, xywh, image_by_id[image_id or 0]))
        x, y, width, height = xywh
        label = label_by_category[category_id or 0]
        rows[image_id or 0].append((x, y, x + width, y + height, score, label))
    refuse_other_conventions(drawn, faults)
    faults.raise_if_any()
    return {
        image.name: _collected(image.size, rows[image_id])
        for image_id, image in image_by_id.items()
    }


def _known_id(
    record: Record, key: str, known: Mapping[int, Any], where: str, faults: Faults
) -> int | None:
    found = record.get(key)
    # By repr, since true and 1.0 are equal to 1, and lists cannot be looked up.
    if isinstance(found, int) and not isinstance(found, bool) and found in known:
        return found
    what = "an image" if key == "image_id" else "a category"
    faults.add(f"{key!r} must be the id of {what}", f"{where} has {found!r:.80}")
    return None


def _box(record: Record, where: str, faults: Faults) -> tuple[float, float, float, float] | None:
    bbox = record.get("bbox")
    if isinstance(bbox, list) and len(bbox) == _XYWH and all(map(is_number, bbox)):
        x, y, width, height = (_float(number) for number in bbox)
        if all(map(math.isfinite, (x, y, width, height))) and width >= 0 and height >= 0:
            return x, y, width, height
    faults.add(
        "'bbox' must be four finite numbers, x y width height in pixels, sides of 0 or more",
        f"{where} has {bbox!r:.120}",
    )
    return None


def _score(record: Record, where: str, faults: Faults) -> float | None:
    score = record.get("score")
    if is_number(score) and 0 <= score <= 1:  # type: ignore[operator] # it is a number
        return float(score)  # type: ignore[arg-type] # likewise
    faults.add("'score' must be a number 0..1", f"{where} has {score!r:.80}")
    return None


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond float64
        return math.inf


def _collected(size: tuple[int, int], rows: Sequence[tuple[float, ...]]) -> ImageResults:
    table = np.array(rows, dtype=np.float64).reshape(-1, 6)
    return ImageResults(
        size=size,
        boxes=table[:, :4],
        scores=table[:, 4],
        labels=table[:, 5].astype(np.int64),
    )

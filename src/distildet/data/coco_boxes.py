"""The boxes of a COCO file: from `bbox`, or from polygons where that is missing.

Boxes that follow another convention (0..1, corners) would train without an error, so they are
looked for.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from distildet.data.boxes import BoxRecord, clip_corners
from distildet.data.faults import Faults

Record: TypeAlias = Mapping[str, Any]

_XYWH: TypeAlias = tuple[float, float, float, float]

# Fewer boxes than that say nothing about the convention of a file.
_MIN_BOXES = 3
_NUM_EXAMPLES = 3
# Numbers of a normalised box are at most 1, but for rounding and boxes that leave the image.
_NORMALISED_LIMIT = 1.5
_LARGE_SIDE = 32
_NEARLY_ALL = 0.95
# How far a box may leave its image before it counts as outside, in pixels: some tools count from 1.
_TOLERANCE = 1.0


@dataclass(frozen=True, kw_only=True)
class CocoImage:
    """An image record whose fields are sound.

    Args:
        name: The file name, with "/".
        path: Where the file is.
        size: (height, width) as stated.
    """

    name: str
    path: Path
    size: tuple[int, int]


class DrawnBox(NamedTuple):
    """A `bbox` as it stands in the file."""

    where: str
    xywh: _XYWH
    image: CocoImage


def read_boxes(
    records: Sequence[Record],
    image_by_id: Mapping[int, CocoImage],
    label_by_category: Mapping[int, int],
    faults: Faults,
) -> tuple[Mapping[int, list[BoxRecord]], list[str]]:
    """Read the boxes of all annotations whose image and category are known.

    Args:
        records: The annotations; the others are passed over.
        image_by_id: Sound images.
        label_by_category: Category id -> label.
        faults: Told about boxes that cannot be read.

    Returns:
        The boxes of each image, clipped to it, and one line for each box that has no area there.
    """
    boxes_by_image: dict[int, list[BoxRecord]] = {image_id: [] for image_id in image_by_id}
    drawn: list[DrawnBox] = []
    dropped: list[str] = []
    for record in records:
        image_id, category_id = record.get("image_id"), record.get("category_id")
        if not isinstance(image_id, int) or image_id not in image_by_id:
            continue
        if not isinstance(category_id, int) or category_id not in label_by_category:
            continue
        image, where = image_by_id[image_id], f"annotation {record.get('id')!r}"
        xywh, crowd = _read_xywh(record, where, faults), _read_crowd(record, where, faults)
        if xywh is None or crowd is None:
            continue
        drawn.append(DrawnBox(where, xywh, image))
        box = _clip(record, xywh, image, label_by_category[category_id], crowd=crowd)
        if box is None:
            dropped.append(
                f"{where} (image {image.name!r}): {_shown_box(record, xywh)} has no area inside "
                f"the image of {image.size[1]}x{image.size[0]} pixels"
            )
        else:
            boxes_by_image[image_id].append(box)
    refuse_other_conventions(drawn, faults)
    return boxes_by_image, dropped


def is_number(value: Any) -> bool:
    """Tell whether a JSON value is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_xywh(record: Record, where: str, faults: Faults) -> _XYWH | None:
    """Return the box of an annotation, or None after noting why it has none."""
    bbox, segmentation = record.get("bbox"), record.get("segmentation")
    if isinstance(bbox, list) and len(bbox) == 4 and all(map(is_number, bbox)):
        x, y, width, height = (_float(number) for number in bbox)
        return x, y, width, height
    if bbox or not segmentation:
        faults.add(
            "annotations: 'bbox' must be four numbers, x y width height in pixels",
            f"{where} has {bbox!r:.120}",
        )
    elif isinstance(segmentation, dict):
        faults.add(
            "annotations: 'bbox' must be given beside a mask in run-length code, of which no box "
            "is made here; add it, such as with pycocotools.mask.toBbox",
            where,
        )
    elif not _is_polygons(segmentation):
        faults.add(
            "annotations: 'segmentation' without 'bbox' must be a list of polygons, each a list "
            "x1 y1 x2 y2 ... of at least three points in pixels",
            f"{where} has {segmentation!r:.120}",
        )
    else:
        return _around(segmentation)
    return None


def _is_polygons(segmentation: Any) -> bool:
    return isinstance(segmentation, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and all(map(is_number, polygon))
        for polygon in segmentation
    )


def _around(polygons: Sequence[Sequence[float]]) -> _XYWH:
    """Return the smallest box around all polygons."""
    xs = [_float(number) for polygon in polygons for number in polygon[::2]]
    ys = [_float(number) for polygon in polygons for number in polygon[1::2]]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def _read_crowd(record: Record, where: str, faults: Faults) -> bool | None:
    """Return whether an annotation is a crowd region, or None after noting why that is unclear."""
    written = record.get("iscrowd", 0)
    # A text such as "0" would count as true.
    if isinstance(written, int | float) and written in {0, 1}:
        return bool(written)
    faults.add(
        "annotations: 'iscrowd' must be 0 or 1, false or true, or left out",
        f"{where} has {written!r:.80}",
    )
    return None


def _clip(
    record: Record, xywh: _XYWH, image: CocoImage, label: int, *, crowd: bool
) -> BoxRecord | None:
    x, y, width, height = xywh
    corners = clip_corners((x, y, x + width, y + height), image.size)
    if corners is None:
        return None
    area = record.get("area")
    given = _float(area) if isinstance(area, int | float) else 0.0
    return BoxRecord(
        corners=corners,
        label=label,
        area=given if math.isfinite(given) and given > 0 else width * height,
        crowd=crowd,
    )


def _shown_box(record: Record, xywh: _XYWH) -> str:
    bbox = record.get("bbox")
    return f"bbox {bbox!r:.120}" if bbox else f"the box {list(xywh)!r:.120} of its polygons"


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond float64, such as 10**400
        return math.inf


def refuse_other_conventions(drawn: Sequence[DrawnBox], faults: Faults) -> None:
    """Note boxes that seem to be shares of the image, or corners.

    Args:
        drawn: All boxes of a file.
        faults: Told about them.
    """
    if len(drawn) < _MIN_BOXES:
        return
    normalised = [one for one in drawn if _is_normalised(one)]
    if len(normalised) >= _NEARLY_ALL * len(drawn):
        faults.add(
            "annotations: 'bbox' must be in pixels, but seems to be in shares of the image; "
            "multiply x and width by its width, y and height by its height",
            _examples(normalised, len(drawn)),
        )
    leaving = [one for one in drawn if _leaves_image(one)]
    fitting = [one for one in drawn if _fits_as_corners(one)]
    if 2 * len(leaving) > len(drawn) and len(fitting) >= _NEARLY_ALL * len(drawn):
        faults.add(
            "annotations: 'bbox' must be x y width height, but seems to be the corners "
            "x1 y1 x2 y2, which fit into the images where x + width and y + height do not; write "
            "x2 - x1 and y2 - y1 in place of x2 and y2",
            _examples(leaving, len(drawn)),
        )


def _is_normalised(one: DrawnBox) -> bool:
    return min(one.image.size) >= _LARGE_SIDE and all(
        abs(number) <= _NORMALISED_LIMIT for number in one.xywh
    )


def _leaves_image(one: DrawnBox) -> bool:
    x, y, width, height = one.xywh
    return x + width > one.image.size[1] + _TOLERANCE or y + height > one.image.size[0] + _TOLERANCE


def _fits_as_corners(one: DrawnBox) -> bool:
    x1, y1, x2, y2 = one.xywh
    return x1 < x2 <= one.image.size[1] + _TOLERANCE and y1 < y2 <= one.image.size[0] + _TOLERANCE


def _examples(suspects: Sequence[DrawnBox], num_boxes: int) -> str:
    shown: Iterable[str] = (
        f"{one.where} has {list(one.xywh)} in {one.image.name!r} of "
        f"{one.image.size[1]}x{one.image.size[0]} pixels"
        for one in suspects[:_NUM_EXAMPLES]
    )
    return f"{len(suspects)} of {num_boxes} boxes, such as {', '.join(shown)}"

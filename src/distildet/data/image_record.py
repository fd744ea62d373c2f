"""What is written about one image, whether a human drew the boxes or a teacher found them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distildet.classes import ClassList
from distildet.data.dataset import Dataset
from distildet.data.faults import Faults
from distildet.data.headers import probe_size
from distildet.data.names import one_line
from distildet.errors import DataError

# Areas are stated with a few decimals; what differs by less is the area of the box.
_AREA_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRecord:
    """One image with its boxes, in the image frame.

    Args:
        name: File name relative to the folder of images, with "/".
        size: (height, width) in pixels.
        boxes: [n 4] float64, xyxy pixels, inside the image, positive width and height.
        labels: [n] int64, 0-based.
        areas: [n] float64, square pixels, of the objects as far as known, else of the boxes.
        crowd: [n] bool, regions to ignore.
        scores: [n] float64, 0..1; None where a human drew the boxes.
    """

    name: str
    size: tuple[int, int]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    scores: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        """Return the number of boxes."""
        return len(self.labels)


def image_records(dataset: Dataset, images: Path) -> tuple[list[ImageRecord], ClassList]:
    """Return the records of annotated images and their classes; sizes are those of the files.

    Images without annotations are passed over: written down without boxes, they would become
    background, at which somebody has looked.

    Args:
        dataset: Sample ids become the names.
        images: Folder of the images, for messages.

    Raises:
        DataError: Images cannot be read; all of them are listed. Or there are no classes.
    """
    if dataset.classes is None:
        raise DataError(
            f"{one_line(images)}: these images have no class list, so there are no boxes to write. "
            "Give a dataset with annotations."
        )
    faults = Faults(images)
    records = []
    for sample in dataset.samples:
        annotations = sample.annotations
        if annotations is None:
            continue
        try:
            size = probe_size(sample.path)
        except DataError as error:
            faults.add("images must be readable", str(error))
            continue
        records.append(
            ImageRecord(
                name=sample.id,
                size=size,
                boxes=annotations.boxes,
                labels=annotations.labels,
                areas=annotations.areas,
                crowd=annotations.crowd,
            )
        )
    faults.raise_if_any()
    return records, dataset.classes


def scores_left_out(records: Sequence[ImageRecord], format_name: str) -> list[str]:
    """Return the line that tells of scores, for a format that has none."""
    count = sum(len(record) for record in records if record.scores is not None)
    return [f"the scores of {count} boxes: {format_name} has no place for them"] if count else []


def crowd_left_out(records: Sequence[ImageRecord], format_name: str) -> list[str]:
    """Return the line that tells of crowd regions, for a format that has none."""
    count = sum(int(record.crowd.sum()) for record in records)
    return [f"{count} crowd regions: {format_name} has no regions to ignore"] if count else []


def areas_left_out(records: Sequence[ImageRecord], format_name: str) -> list[str]:
    """Return the line that tells of areas of objects, for a format that has only boxes."""
    count = sum(_count_other_areas(record) for record in records)
    return (
        [f"the areas of {count} objects, smaller than their boxes: {format_name} has only boxes"]
        if count
        else []
    )


def _count_other_areas(record: ImageRecord) -> int:
    sides = record.boxes[:, 2:] - record.boxes[:, :2]  # [n, 2]
    of_boxes = sides[:, 0] * sides[:, 1]
    return int((record.areas < of_boxes * (1 - _AREA_TOLERANCE)).sum())

"""What every data format yields: samples with or without annotations."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distildet.classes import ClassList


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """What a human drew in one image, in the image frame.

    Args:
        boxes: [n 4] float64, xyxy pixels, inside the image, positive width and height.
        labels: [n] int64, 0-based.
        areas: [n] float64, square pixels as the file states them (COCO size buckets use them).
        crowd: [n] bool, regions to ignore: no target in training, `iscrowd` in evaluation.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One image of a dataset.

    Args:
        id: Unique name within a run: path relative to the root of the images, with "/".
        path: Where the file is.
        annotations: None where nobody looked at the image; no boxes means background.
    """

    id: str
    path: Path
    annotations: Annotations | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Samples in a fixed order.

    Args:
        samples: Sorted as the source lists them.
        classes: Names of the labels; None for unlabeled images.
        dropped: One line for each record left out (degenerate box), with file and record.
        notes: One line for each kind of image that is passed over, or of which only a part is
            taken; in contrast to `dropped`, it concerns the images also without annotations.
    """

    samples: tuple[Sample, ...]
    classes: ClassList | None = None
    dropped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

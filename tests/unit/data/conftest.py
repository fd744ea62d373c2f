"""Records of images that are built by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from distildet.data.image_record import ImageRecord


def _record_of(
    name, boxes=(), labels=None, *, size=(10, 20), crowd=None, scores=None, areas=None
) -> ImageRecord:
    drawn = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(drawn)
    sides = drawn[:, 2:] - drawn[:, :2]
    return ImageRecord(
        name=name,
        size=size,
        boxes=drawn,
        labels=np.array([0] * count if labels is None else labels, dtype=np.int64),
        areas=np.array(sides.prod(axis=1) if areas is None else areas, dtype=np.float64),
        crowd=np.array([False] * count if crowd is None else crowd, dtype=np.bool_),
        scores=None if scores is None else np.array(scores, dtype=np.float64),
    )


@pytest.fixture(scope="session")
def record_of() -> Callable[..., ImageRecord]:
    """Give a function that makes a record of an image, 20 wide and 10 high if not told else."""
    return _record_of

"""Boxes as the annotation formats yield them, checked and brought into `Annotations`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distildet.data.dataset import Annotations

Corners = tuple[float, float, float, float]


class BoxRecord(NamedTuple):
    """One box that lies inside its image.

    Args:
        corners: x1 y1 x2 y2, pixels of the image frame.
        label: 0-based.
        area: Square pixels.
        crowd: Whether it marks a region to ignore.
    """

    corners: Corners
    label: int
    area: float
    crowd: bool


def clip_corners(corners: Corners, image_size: tuple[int, int]) -> Corners | None:
    """Clip a box to its image.

    Args:
        corners: x1 y1 x2 y2, pixels of the image frame.
        image_size: (height, width).

    Returns:
        The clipped box, or None if it has no area there: zero or negative sides, numbers that are
        not finite, or all of it outside.
    """
    if not all(math.isfinite(number) for number in corners):
        return None
    height, width = image_size
    x1, y1, x2, y2 = corners
    left, right = max(x1, 0.0), min(x2, float(width))
    top, bottom = max(y1, 0.0), min(y2, float(height))
    # Compared as float32, which training uses: sides that vanish there have no area either.
    if np.float32(right) <= np.float32(left) or np.float32(bottom) <= np.float32(top):
        return None
    return left, top, right, bottom


def collect_annotations(records: Sequence[BoxRecord]) -> Annotations:
    """Bring the boxes of one image together; no boxes means background."""
    return Annotations(
        boxes=np.array([r.corners for r in records], dtype=np.float64).reshape(-1, 4),  # [n, 4]
        labels=np.array([r.label for r in records], dtype=np.int64),
        areas=np.array([r.area for r in records], dtype=np.float64),
        crowd=np.array([r.crowd for r in records], dtype=np.bool_),
    )

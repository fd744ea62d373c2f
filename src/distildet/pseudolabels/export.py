"""Pseudo labels as records that every annotation format can be written from."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from distildet.classes import ClassList
from distildet.data.image_record import ImageRecord
from distildet.pseudolabels.select import score_limits
from distildet.pseudolabels.store import StoredLabels


def stored_records(
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    *,
    thresholds: Mapping[str, float] | None = None,
) -> list[ImageRecord]:
    """Return the stored labels that reach their threshold, in the order of the store.

    Boxes are clipped to their image; those that have no area then are left out.

    Args:
        stored: Labels by sample id, which becomes the name.
        classes: Of the stored labels.
        thresholds: Class name -> lowest score taken; None takes everything.
    """
    limits = score_limits(
        dict.fromkeys(classes, 0.0) if thresholds is None else thresholds, classes
    )
    return [
        _record(name, entry, limits[entry.detections.labels].numpy())
        for name, entry in stored.items()
    ]


def _record(name: str, entry: StoredLabels, limits: NDArray[np.float32]) -> ImageRecord:
    found = entry.detections
    height, width = entry.image_size
    # In float32, as boxes are compared when they are read.
    edges = np.array((width, height, width, height), dtype=np.float32)
    corners = found.boxes.numpy().clip(0, edges)  # [n, 4]
    has_area = (corners[:, 2:] > corners[:, :2]).all(axis=1)
    is_kept = has_area & (found.scores.numpy() >= limits)
    boxes = corners[is_kept].astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]  # [n, 2]
    return ImageRecord(
        name=name,
        size=entry.image_size,
        boxes=boxes,
        labels=found.labels.numpy()[is_kept],
        areas=sides[:, 0] * sides[:, 1],
        crowd=np.zeros(len(boxes), dtype=np.bool_),
        scores=found.scores.numpy()[is_kept].astype(np.float64),
    )

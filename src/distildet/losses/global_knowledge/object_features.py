"""What global knowledge reads of the objects of a batch: their features and sizes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.ops.instance_features import instance_features
from distildet.ops.prototype_coordinates import unit_rows
from distildet.structures import DetectorOutput, ImageBatch


def object_features(
    output: DetectorOutput, level: str, batch: ImageBatch, boxes: Sequence[Tensor]
) -> Tensor:
    """Return [n c] of all objects, the mean of a neck map over the box, with norm 1.

    Args:
        output: With the neck maps.
        level: Name of one.
        batch: The images.
        boxes: Of each image xyxy, batch frame; n in all.
    """
    return unit_rows(instance_features(output.features[level], boxes, batch.canvas))


def relative_sides(batch: ImageBatch, boxes: Sequence[Tensor]) -> Tensor:
    """Return [n 2], width and height of all boxes as shares of their image's shorter side.

    Args:
        batch: The images.
        boxes: Of each image xyxy, batch frame; n in all.
    """
    joined = torch.cat(list(boxes))
    shorter = batch.sizes.amin(1).repeat_interleave(torch.tensor([len(one) for one in boxes]))
    return (joined[:, 2:] - joined[:, :2]) / shorter.to(joined)[:, None]

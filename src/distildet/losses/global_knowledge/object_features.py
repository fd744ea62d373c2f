"""What global knowledge reads of the objects of a batch: their features."""

from collections.abc import Sequence

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

"""How large objects are in their image, and on which pyramid level they are looked for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.structures import ImageBatch

FINEST_SIDE = 56 / 800
"""Of boxes, as a share of the image's shorter side: twice as large are seen on the next level."""


def relative_sides(batch: ImageBatch, boxes: Sequence[Tensor]) -> Tensor:
    """Return [n 2], width and height of all boxes as shares of their image's shorter side.

    Args:
        batch: The images.
        boxes: Of each image xyxy, batch frame; n in all.
    """
    joined = torch.cat(list(boxes))
    shorter = batch.sizes.amin(1).repeat_interleave(torch.tensor([len(one) for one in boxes]))
    return (joined[:, 2:] - joined[:, :2]) / shorter.to(joined)[:, None]


def places_by_size(batch: ImageBatch, boxes: Sequence[Tensor], num_levels: int) -> Tensor:
    """Return [n], for each box the place of a level by its size, 0 for the finest.

    Args:
        batch: The images.
        boxes: Of each image xyxy, batch frame; n in all.
        num_levels: Of the pyramid, at least 1; what is larger than all is on the last.
    """
    sides = relative_sides(batch, boxes).prod(1).sqrt()
    return (sides / FINEST_SIDE).log2().floor().clamp(0, num_levels - 1)

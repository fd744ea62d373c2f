"""How large objects are, and on which pyramid level they are looked for."""

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


def nearest_places(boxes: Tensor, sides: Sequence[float]) -> Tensor:
    """Return [n], for each box the place of the level that looks for objects most like it in size.

    Args:
        boxes: [n 4] xyxy, batch frame.
        sides: Of the objects that each level looks for, in batch pixels, above 0; at least one.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 4.0, 36.0]])  # sides 1 and 12
        >>> nearest_places(boxes, (8.0, 16.0))  # 12 is above the geometric mean of both, 11.3
        tensor([0, 1])
    """
    lengths = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
    # A box without area is on the finest level, whose distance is then as infinite as the others'.
    logs = lengths.clamp(min=torch.finfo(lengths.dtype).tiny).log()
    return (logs[:, None] - lengths.new_tensor(list(sides)).log()).abs().argmin(1)

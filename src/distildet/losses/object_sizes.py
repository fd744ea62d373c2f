"""How large objects are, and on which pyramid level they are looked for."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distildet.specs import ObjectSize
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


class LevelSizes(NamedTuple):
    """The objects that the levels of a pyramid look for.

    Args:
        measure: What of a box is its size.
        sides: Of each level, finest first, in batch pixels, above 0; infinite where a level looks
            for none. At least one is finite.
    """

    measure: ObjectSize
    sides: tuple[float, ...]


def nearest_places(boxes: Tensor, sizes: LevelSizes) -> Tensor:
    """Return [n], for each box the place of the level that looks for objects most like it in size.

    Args:
        boxes: [n 4] xyxy, batch frame.
        sizes: Of the objects that each level looks for.

    Example:
        >>> boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 4.0, 36.0]])  # sides 1 and 12
        >>> nearest_places(boxes, LevelSizes("root of area", (8.0, 16.0)))  # 11.3 is between
        tensor([0, 1])
    """
    corners = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    lengths = corners.amax(1) if sizes.measure == "longer side" else corners.prod(1).sqrt()
    # A box without area is on the finest level, whose distance is then as infinite as the others'.
    logs = lengths.clamp(min=torch.finfo(lengths.dtype).tiny).log()
    return (logs[:, None] - lengths.new_tensor(sizes.sides).log()).abs().argmin(1)

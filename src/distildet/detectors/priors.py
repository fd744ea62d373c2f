"""Priors of dense heads, and the order in which their predictions stand."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator


def location_major(raw: Tensor, width: int) -> Tensor:
    """Bring predictions of a level into location-major order.

    Args:
        raw: [b aw h w], the values of each of a priors behind each other.
        width: Values of one prior.

    Returns:
        [b hwa width] float32, all priors of a location together. In half precision scores tie, and
        boxes of 1000 pixels are off by pixels, from the first operation that follows.
    """
    b, _, h, w = raw.shape
    grouped = raw.reshape(b, -1, width, h, w)  # [b a width h w]
    return grouped.permute(0, 3, 4, 1, 2).reshape(b, -1, width).float()  # [b hwa width]


def grid_priors(
    generator: AnchorGenerator, padded_size: tuple[int, int], features: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the anchors of each level, [n 4] float32, whatever the features' precision.

    torchvision's own call makes them in the features' type; in bf16 they are off by pixels.
    """
    device = features[0].device
    sizes = [list(feature.shape[-2:]) for feature in features]
    strides = [
        [torch.tensor(padded_size[axis] // size[axis], device=device) for axis in (0, 1)]
        for size in sizes
    ]
    generator.set_cell_anchors(torch.float32, device)
    return tuple(generator.grid_anchors(sizes, strides))

"""How far the student's map is from the teacher's, in each cell."""

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST_SIZE = 0.01
"""Root mean square of the standardised channels of a cell below which it has no direction."""


def hands_on_difference(
    own: Tensor, guide: Tensor, num_channels: Tensor, *, direction: float
) -> Tensor:
    """Return [b h w], what a student's cell lacks in size and in direction: d + direction * g.

    d = 1/c Σ_c huber(v - t), g = 1 - cos(v, t); huber(x) is x²/2 up to 1, and |x| - 1/2 beyond. In
    units of the teacher's deviation no channel and no level counts more for being larger, and
    no cell much more for being an outlier. For the cosine v and t have a further channel of 0.01
    times the root of c: a cell that is near 0 has hardly a direction, and its gradient is finite.

    Args:
        own: v, [b c h w], the student's map, projected and standardised.
        guide: t, [b c h w], the teacher's, standardised; channels that are left out are 0 in both.
        num_channels: Scalar, those that are not left out.
        direction: Factor of g, 0 or more.
    """
    magnitude = F.huber_loss(own, guide, reduction="none").sum(1) / num_channels
    if direction == 0:
        return magnitude
    further = LEAST_SIZE**2 * num_channels
    sizes = [(one.square().sum(1) + further).sqrt() for one in (own, guide)]
    # Rounding takes a cosine just above 1.
    angle = (1 - ((own * guide).sum(1) + further) / sizes[0] / sizes[1]).clamp(min=0)
    return magnitude + direction * angle  # [b h w]


def squared_difference(own: Tensor, guide: Tensor, deviation: Tensor) -> Tensor:
    """Return [b h w], |S - T|² / Σ_c deviation_c²: as in `feature-imitation`, but for its V.

    Args:
        own: [b c h w], the student's map, projected and standardised.
        guide: [b c h w], the teacher's, standardised.
        deviation: [c] of the teacher, that both were divided by; 0 for channels left out.
    """
    raw = (own - guide) * deviation[:, None, None]
    return raw.square().sum(1) / deviation.square().sum()


def on_coarser_grid(own: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps on the coarser grid of both: neither gains cells that it does not have.

    Args:
        own: [b c h w].
        guide: [b d i j].
    """
    shape = min(own.shape[2], guide.shape[2]), min(own.shape[3], guide.shape[3])
    pooled = [
        one if one.shape[2:] == shape else F.adaptive_avg_pool2d(one, shape) for one in (own, guide)
    ]
    return pooled[0], pooled[1]


def released(difference: Tensor, shown: Tensor, share: float) -> Tensor:
    """Return the scalar that a share of the cells lies below, without gradient.

    Args:
        difference: [b h w].
        shown: [b h w], 1 for cells that count, at least one.
        share: 0..1.
    """
    counted = torch.where(shown > 0, difference.detach(), float("inf"))
    place = (share * (shown.sum() - 1)).floor().long()
    return counted.flatten().sort().values.gather(0, place[None])[0]

"""How far the student's map is from the teacher's, in each cell."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
    """Return the scalar that a share of an image's cells lies below, mean over images, no gradient.

    Args:
        difference: [b h w].
        shown: [b h w], 1 for cells that count, at least one an image.
        share: 0..1.
    """
    counted = torch.where(shown > 0, difference.detach(), float("inf")).flatten(1)  # [b cells]
    place = (share * (shown.sum((1, 2)) - 1)).floor().long()
    return counted.sort(1).values.gather(1, place[:, None]).mean()

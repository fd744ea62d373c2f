"""What hands-on guidance keeps of a feature level over the images that it looks at beforehand."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.losses.base import Observation
from distildet.losses.feature_difference import cells_that_show_image
from distildet.ops.instance_features import instance_features
from distildet.structures import ImageBatch

GRID = 4
"""Places along each side of an image at which levels are compared, whatever their strides."""
_KEPT = ("grid", "mean", "variance", "cells")


def observe_level(name: str, feature: Tensor, batch: ImageBatch) -> dict[str, Tensor]:
    """Return what is kept of a level for one batch, by names that begin with its own.

    Args:
        name: Of the level.
        feature: [b c h w], its map.
        batch: The images.

    Returns:
        "grid" [b*16 c], means over a grid of 4 x 4 on each image; "mean" and "variance" [b c] over
        the cells that show image; "cells" [b 1], how many these are.
    """
    feature = feature.float()
    shown = cells_that_show_image(batch, feature)
    cells = shown.sum((2, 3))  # [b 1]
    mean = (feature * shown).sum((2, 3)) / cells  # [b c]
    variance = ((feature - mean[:, :, None, None]).square() * shown).sum((2, 3)) / cells
    grid = instance_features(feature, _grid_boxes(batch, feature.device), batch.canvas)
    kept = (grid, mean, variance, cells)
    return {f"{name} {kind}": one for kind, one in zip(_KEPT, kept, strict=True)}


def grid_of(observed: Sequence[Observation], name: str) -> Tensor:
    """Return [n c], a level on the grids of all images."""
    return torch.cat([batch[f"{name} grid"] for batch in observed])


def mean_and_variance(observed: Sequence[Observation], name: str) -> tuple[Tensor, Tensor]:
    """Return [c] and [c], of a level's channels over the cells of all images.

    An image with a value that is not finite is left out; without any other both are 0.
    """
    mean, variance, cells = (
        torch.cat([batch[f"{name} {kind}"] for batch in observed]) for kind in _KEPT[1:]
    )
    is_finite = (mean.isfinite() & variance.isfinite()).all(1)
    mean, variance, cells = mean[is_finite], variance[is_finite], cells[is_finite]
    number = cells.sum().clamp(min=1)
    whole = (mean * cells).sum(0) / number
    # Within images and between them: squares of the maps, less the squared mean, would lose digits.
    return whole, ((variance + (mean - whole).square()) * cells).sum(0) / number


def _grid_boxes(batch: ImageBatch, device: torch.device) -> list[Tensor]:
    """Return of each image [16 4] xyxy, its equal parts row by row, batch frame."""
    ends = torch.arange(GRID + 1, device=device) / GRID
    top, left = torch.meshgrid(ends[:-1], ends[:-1], indexing="ij")
    bottom, right = torch.meshgrid(ends[1:], ends[1:], indexing="ij")
    relative = torch.stack([left, top, right, bottom], -1).flatten(0, 1)  # [16 4]
    widths = batch.sizes.to(device).flip(1)  # [b 2] width, height
    return [*(relative * widths.repeat(1, 2)[:, None])]

"""What losses between neck maps share: levels, projectors, their difference and its scale."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distildet.errors import ConfigError, MissingPartError
from distildet.specs import DetectorSpec
from distildet.structures import FEATURES_NECK, ImageBatch

# A map that hardly varies over the cells (or has one cell) is compared with its own magnitude
# instead: the variance counts as at least this share of the mean square.
LEAST_VARIANCE = 0.01


def compared_levels(
    student: DetectorSpec, teacher: DetectorSpec, asked: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the neck levels to compare, after checking that both detectors have them.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.
        asked: Names of levels; None for all that both have.

    Raises:
        MissingPartError: A level is missing on one side, or no level is common.
        ConfigError: `asked` is empty or names a level twice.
    """
    own, guide = student.levels_of(FEATURES_NECK), teacher.levels_of(FEATURES_NECK)
    common = tuple(level for level in own if level in guide)
    has = f"The student has {', '.join(own)}; the teacher has {', '.join(guide)}."
    if asked is None:
        if not common:
            raise MissingPartError(f"student and teacher have no neck level in common. {has}")
        return common
    if not asked or len(set(asked)) < len(asked):
        raise ConfigError(
            f"levels: found {list(asked)}. Accepted: different levels of "
            f"{', '.join(common)}, at least one."
        )
    missing = [level for level in asked if level not in common]
    if missing:
        raise MissingPartError(f"levels: {', '.join(missing)} is not on both sides. {has}")
    return asked


def make_projectors(
    student: DetectorSpec, teacher: DetectorSpec, levels: tuple[str, ...]
) -> nn.ModuleDict:
    """Return for each level a 1x1 convolution from the student's to the teacher's channels.

    Between equal channels it starts as the identity.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.
        levels: As `compared_levels` returns them.
    """
    own, guide = student.levels_of(FEATURES_NECK), teacher.levels_of(FEATURES_NECK)
    return nn.ModuleDict(
        {level: make_projector(own[level].channels, guide[level].channels) for level in levels}
    )


def make_projector(own_channels: int, guide_channels: int, *, side: int = 1) -> nn.Conv2d:
    """Return a convolution between two numbers of channels, the identity where they are equal.

    Args:
        own_channels: Of the student.
        guide_channels: Of the teacher.
        side: Of the kernel in cells, odd; the map keeps its size.
    """
    projector = nn.Conv2d(own_channels, guide_channels, side, padding=side // 2)
    if own_channels == guide_channels:
        nn.init.dirac_(projector.weight)
        nn.init.zeros_(projector.bias)  # type: ignore[arg-type] # a Conv2d has a bias by default
    return projector


def squared_difference(projected: Tensor, guide: Tensor) -> Tensor:
    """Return (a(S) - T)², [b c h w] float32.

    Args:
        projected: [b c h_s w_s], the student's map after its projector.
        guide: [b c h w] float32, the teacher's map, to whose size the other is resized.
    """
    # Sums of squares over a map lose digits, and in half precision overflow, below float32.
    projected = projected.float()
    if projected.shape[2:] != guide.shape[2:]:
        projected = F.interpolate(
            projected, size=guide.shape[2:], mode="bilinear", align_corners=False
        )  # [b, c, h, w] of the teacher
    return (projected - guide).square()


def statistics(guide: Tensor, shown: Tensor) -> Tensor:
    """Return what `total_variance` needs of a part of the batch, such that parts add up.

    Args:
        guide: [b c h w] float32, the teacher's map.
        shown: [b 1 h w], as `cells_that_show_image` returns it.

    Returns:
        [4 + c]: number of cells; variance about the part's own means; cells * |means|²; Σ_v |T|²;
        cells * means.
    """
    cells = shown.sum()
    mean = (guide * shown).sum((0, 2, 3)) / cells  # [c]
    inside = (guide - mean[:, None, None]).square().mul(shown).sum()
    square = (guide.square() * shown).sum()
    return torch.cat(
        [torch.stack([cells, inside, cells * mean.square().sum(), square]), cells * mean]
    )


def total_variance(totals: Tensor) -> Tensor:
    """Return what the squared difference over all cells of the whole batch is divided by.

    That is Σ_v |T - mean_v(T)|², but at least 0.01 Σ_v |T|², or the number of values where the
    maps are 0 everywhere. Between the means of the parts the variance is as in Chan et al.,
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979: squares of
    the maps, less the squared mean, would lose all digits of a small variance.

    Args:
        totals: `statistics` of all parts, added up.
    """
    cells, inside, squared_means, square, sums = totals.split_with_sizes(
        [1, 1, 1, 1, len(totals) - 4]
    )
    between = squared_means - (sums.square() / cells).sum()
    scale = torch.maximum(inside + between.clamp(min=0), LEAST_VARIANCE * square)
    return torch.where(scale > 0, scale, cells * len(sums)).squeeze()


def variance_of_a_cell(totals: Tensor) -> Tensor:
    """Return `total_variance` divided by the number of cells.

    Args:
        totals: `statistics` of all parts, added up.
    """
    return total_variance(totals) / totals[0]


def cells_that_show_image(batch: ImageBatch, feature: Tensor) -> Tensor:
    """Return [b 1 h w], 1 where a cell begins inside the image: at least one cell an image.

    Args:
        batch: The images.
        feature: [b c h w], a map of them.
    """
    padded = batch.pixels.shape[2:]
    sizes = batch.sizes.to(feature.device)
    height, width = feature.shape[2:]
    # Padded size / map size: at sizes that a stride does not divide, nominal strides are off.
    tops = torch.arange(height, device=feature.device) * (padded[0] / height)
    lefts = torch.arange(width, device=feature.device) * (padded[1] / width)
    rows, columns = tops < sizes[:, :1], lefts < sizes[:, 1:]  # [b h], [b w]
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(feature.dtype)  # [b 1 h w]

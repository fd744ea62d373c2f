"""Feature imitation: the student's pyramid predicts the teacher's, cell by cell."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distildet.errors import ConfigError, MissingPartError
from distildet.losses.base import LOSSES, DistillationLoss, Needs
from distildet.ops.reduce import batch_share, batch_total
from distildet.specs import DetectorSpec
from distildet.structures import FEATURES_NECK, DetectorOutput, ImageBatch, Targets

# A map that hardly varies over the cells (or has one cell) is compared with its own magnitude
# instead: the variance counts as at least this share of the mean square.
LEAST_VARIANCE = 0.01


@LOSSES.register("feature-imitation")
class FeatureImitation(DistillationLoss):
    """Pushes each neck map of the student, through a projector, to equal the teacher's map.

    The plainest of feature losses: every cell counts the same, background too. It helps where the
    teacher's pyramid shows more than the student's own labels ask for, and needs no box. Where
    objects are few and small, most of what it asks for is background.

    Formula:
        L = 1/l Σ_levels  Σ_v |a(S) - T|² / Σ_v |T - mean_v(T)|²
        v: the cells of all images that show image, not padding; S, T: maps of student and teacher;
        a: 1x1 projector, then bilinear resize to the teacher's map; mean_v(T): of each channel.
        The denominator is at least 0.01 Σ_v |T|² (a map of one cell has no variance), and the mean
        difference itself counts where the teacher's map is 0 everywhere.

    Needs:
        student: features.neck · teacher: features.neck · class lists may differ · targets not used

    Args:
        student: Facts of the student; channels of its levels are read here.
        teacher: Facts of the teacher.
        levels: Pyramid levels compared, such as ("P3", "P4"), which both must have; None for all
            that both have.

    Shape:
        student feature [b, c_s, h_s, w_s], teacher feature [b, c_t, h_t, w_t] per level; the
        student is projected to c_t and resized to (h_t, w_t) where the sizes differ.

    Returns:
        "feature": unitless scalar >= 0, mean over levels, unweighted, float32; 1 is as good as
        the mean of each channel, 0 is equality. Normalised over the whole batch, micro-batches
        and processes included.

    Gradient:
        To student and projectors only.

    Raises:
        MissingPartError: A level is missing on one side, or no level is common.
        ConfigError: `levels` is empty or names a level twice.

    Source:
        Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, arXiv 1412.6550, the
        hint loss; on detectors: Chen et al., "Learning Efficient Object Detection Models with
        Knowledge Distillation", NeurIPS 2017.
        Checked against: values by hand and a loop over cells; no code was read.
        Differs: all pyramid levels at once beside the detector's loss, where FitNets trains one
        hint layer first; divided by the teacher's variance; padding left out; projectors between
        equal channels start as the identity, as for a student that starts from the teacher.
    """

    needs = Needs(student=frozenset({FEATURES_NECK}), teacher=frozenset({FEATURES_NECK}))
    is_zero_at_equality = True

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        levels: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        own, guide = student.levels_of(FEATURES_NECK), teacher.levels_of(FEATURES_NECK)
        self.levels = _compared_levels(tuple(own), tuple(guide), levels)
        self.projectors = nn.ModuleDict(
            {level: _projector(own[level].channels, guide[level].channels) for level in self.levels}
        )

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],  # noqa: ARG002 - every cell counts, whatever is in it
    ) -> dict[str, Tensor]:
        """Return "feature"; see the class."""
        guides = [teacher.features[level].detach().float() for level in self.levels]
        shown = [_cells_that_show_image(batch, guide) for guide in guides]
        own = [_statistics(*pair) for pair in zip(guides, shown, strict=True)]
        # In one message: each costs processes that wait for each other.
        totals = batch_total(torch.cat(own)).split_with_sizes([len(one) for one in own])
        values = [
            _squared_difference(self.projectors[level](student.features[level]), *pair)
            / (_scale(total) * batch_share())
            for level, pair, total in zip(
                self.levels, zip(guides, shown, strict=True), totals, strict=True
            )
        ]
        return {"feature": torch.stack(values).mean()}


def _compared_levels(
    own: tuple[str, ...], guide: tuple[str, ...], asked: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return the levels to compare, after checking that both detectors have them."""
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


def _projector(own_channels: int, guide_channels: int) -> nn.Conv2d:
    projector = nn.Conv2d(own_channels, guide_channels, 1)
    if own_channels == guide_channels:
        nn.init.dirac_(projector.weight)
        nn.init.zeros_(projector.bias)  # type: ignore[arg-type] # a Conv2d has a bias by default
    return projector


def _squared_difference(projected: Tensor, guide: Tensor, shown: Tensor) -> Tensor:
    """Return Σ_v |a(S) - T|² over the cells [b 1 h w] that are shown."""
    # Sums of squares over a map lose digits, and in half precision overflow, below float32.
    projected = projected.float()
    if projected.shape[2:] != guide.shape[2:]:
        projected = F.interpolate(
            projected, size=guide.shape[2:], mode="bilinear", align_corners=False
        )  # [b, c, h, w] of the teacher
    return (projected - guide).square().mul(shown).sum()


def _statistics(guide: Tensor, shown: Tensor) -> Tensor:
    """Return what `_scale` needs of a part of the batch, [4 + c], such that parts add up.

    Number of cells; variance about the part's own means; cells * |means|²; Σ_v |T|²; cells * means.
    """
    cells = shown.sum()
    mean = (guide * shown).sum((0, 2, 3)) / cells  # [c]
    inside = (guide - mean[:, None, None]).square().mul(shown).sum()
    square = (guide.square() * shown).sum()
    return torch.cat(
        [torch.stack([cells, inside, cells * mean.square().sum(), square]), cells * mean]
    )


def _scale(totals: Tensor) -> Tensor:
    """Return what the squared difference of the whole batch is divided by.

    That is Σ_v |T - mean_v(T)|², but at least 0.01 Σ_v |T|², or the number of values where the
    maps are 0 everywhere. Between the means of the parts the variance is as in Chan et al.,
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979: squares of
    the maps, less the squared mean, would lose all digits of a small variance.

    Args:
        totals: `_statistics` of all parts, added up.
    """
    cells, inside, squared_means, square, sums = totals.split_with_sizes(
        [1, 1, 1, 1, len(totals) - 4]
    )
    between = squared_means - (sums.square() / cells).sum()
    scale = torch.maximum(inside + between.clamp(min=0), LEAST_VARIANCE * square)
    return torch.where(scale > 0, scale, cells * len(sums)).squeeze()


def _cells_that_show_image(batch: ImageBatch, feature: Tensor) -> Tensor:
    """Return [b 1 h w], 1 where a cell begins inside the image: at least one cell an image."""
    padded = batch.pixels.shape[2:]
    sizes = batch.sizes.to(feature.device)
    height, width = feature.shape[2:]
    # Padded size / map size: at sizes that a stride does not divide, nominal strides are off.
    tops = torch.arange(height, device=feature.device) * (padded[0] / height)
    lefts = torch.arange(width, device=feature.device) * (padded[1] / width)
    rows, columns = tops < sizes[:, :1], lefts < sizes[:, 1:]  # [b h], [b w]
    return (rows[:, None, :, None] & columns[:, None, None, :]).to(feature.dtype)  # [b 1 h w]

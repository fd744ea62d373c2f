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
        values = [
            _unexplained(
                self.projectors[level](student.features[level]),
                teacher.features[level].detach(),
                batch,
            )
            for level in self.levels
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


def _unexplained(projected: Tensor, guide: Tensor, batch: ImageBatch) -> Tensor:
    """Return the part of the variance of `guide` [b c h w] that is not met, >= 0."""
    # Sums of squares over a map lose digits, and in half precision overflow, below float32.
    projected, guide = projected.float(), guide.float()
    if projected.shape[2:] != guide.shape[2:]:
        projected = F.interpolate(
            projected, size=guide.shape[2:], mode="bilinear", align_corners=False
        )  # [b, c, h, w] of the teacher
    shown = _cells_that_show_image(batch, guide)
    difference = (projected - guide).square().mul(shown).sum()
    variance, square = _variance_and_square(guide, shown)
    scale = torch.maximum(variance, LEAST_VARIANCE * square)
    cells = batch_total(shown.sum()) * guide.shape[1]
    return difference / (torch.where(scale > 0, scale, cells) * batch_share())


def _variance_and_square(guide: Tensor, shown: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ_v |T - mean_v(T)|² and Σ_v |T|² over the shown cells of the whole batch.

    Each part of the batch knows its own mean; between the means of the parts, as in Chan et al.,
    "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979. Squares of
    the maps themselves, less the squared mean, would lose all digits of a small variance.
    """
    cells = shown.sum()
    mean = (guide * shown).sum((0, 2, 3)) / cells  # [c]
    inside = (guide - mean[:, None, None]).square().mul(shown).sum()
    all_cells, sums = batch_total(cells), batch_total(mean * cells)
    between = batch_total(cells * mean.square().sum()) - (sums.square() / all_cells).sum()
    variance = batch_total(inside) + between.clamp(min=0)
    return variance, batch_total((guide.square() * shown).sum())


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

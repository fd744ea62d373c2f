"""Feature imitation: the student's pyramid predicts the teacher's, cell by cell."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.losses.base import LOSSES, DistillationLoss, Needs
from distildet.losses.feature_difference import (
    cells_that_show_image,
    compared_levels,
    make_projectors,
    squared_difference,
    statistics,
    total_variance,
)
from distildet.ops.reduce import batch_share, batch_total
from distildet.specs import DetectorSpec
from distildet.structures import FEATURES_NECK, DetectorOutput, ImageBatch, Targets


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
        self.levels = compared_levels(student, teacher, levels)
        self.projectors = make_projectors(student, teacher, self.levels)

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],  # noqa: ARG002 - every cell counts, whatever is in it
    ) -> dict[str, Tensor]:
        """Return "feature"; see the class."""
        guides = [teacher.features[level].detach().float() for level in self.levels]
        shown = [cells_that_show_image(batch, guide) for guide in guides]
        own = [statistics(*pair) for pair in zip(guides, shown, strict=True)]
        # In one message: each costs processes that wait for each other.
        totals = batch_total(torch.cat(own)).split_with_sizes([len(one) for one in own])
        values = [
            squared_difference(self.projectors[level](student.features[level]), guide)
            .mul(cells)
            .sum()
            / (total_variance(total) * batch_share())
            for level, guide, cells, total in zip(self.levels, guides, shown, totals, strict=True)
        ]
        return {"feature": torch.stack(values).mean()}

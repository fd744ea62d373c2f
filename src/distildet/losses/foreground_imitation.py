"""Foreground imitation: the student's pyramid predicts the teacher's, objects and rest apart."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.errors import ConfigError
from distildet.losses.base import LOSSES, DistillationLoss, Needs
from distildet.losses.feature_difference import (
    cells_that_show_image,
    compared_levels,
    make_projectors,
    squared_difference,
    statistics,
    variance_of_a_cell,
)
from distildet.ops.foreground import inside_boxes
from distildet.ops.reduce import batch_share, batch_total
from distildet.specs import DetectorSpec
from distildet.structures import FEATURES_NECK, DetectorOutput, ImageBatch, Targets


@LOSSES.register("foreground-imitation")
class ForegroundImitation(DistillationLoss):
    """Pushes the neck maps of the student to equal the teacher's, in and outside of boxes apart.

    Objects cover few cells. Foreground and background are each divided by their own number of
    cells, so that small and few objects weigh as much as all that is around them; background is
    imitated too, which the paper finds to help as much. With wrong boxes, such as pseudo labels of
    a poor teacher, the wrong cells are emphasised.

    Formula:
        L = 1/l Σ_levels (foreground D_fg + background D_bg) / V
        D_x = Σ_{v in x} |a(S) - T|² / N_x
        V = Σ_v |T - mean_v(T)|² / N
        fg: cells that overlap a box of the targets; bg: the other cells, but those that overlap an
        ignore region drawn by a human; N_fg, N_bg: their numbers, at least 1.
        v: the N cells of all images that show image, not padding; S, T: maps of student and
        teacher; a: 1x1 projector, then bilinear resize to the teacher's map; mean_v(T): of each
        channel. Σ_v |T - mean_v(T)|² is at least 0.01 Σ_v |T|² (a map of one cell has no
        variance), and V is the number of channels where the teacher's map is 0 everywhere.

    Needs:
        student: features.neck · teacher: features.neck · class lists may differ · boxes of people
        or pseudo labels; their labels and weights, and the classes looked for, are not used

    Args:
        student: Facts of the student; channels of its levels are read here.
        teacher: Facts of the teacher.
        levels: Pyramid levels compared, such as ("P3", "P4"), which both must have; None for all
            that both have.
        foreground: Factor of the cells in boxes, >= 0; 0 leaves them out.
        background: Factor of the other cells, >= 0; 0 leaves them out.

    Shape:
        student feature [b, c_s, h_s, w_s], teacher feature [b, c_t, h_t, w_t] per level; the
        student is projected to c_t and resized to (h_t, w_t) where the sizes differ.

    Returns:
        "foreground" and "background", those of them whose factor is not 0, times it: unitless
        scalars >= 0, means over levels, unweighted, float32; 0 is equality. The mean of both at
        factors of 1, weighted by their numbers of cells, is 1 where the student is as good as the
        mean of each channel. "foreground" is 0 where no image has a box. Normalised over the whole
        batch, micro-batches and processes included.

    Gradient:
        To student and projectors only.

    Raises:
        MissingPartError: A level is missing on one side, or no level is common.
        ConfigError: `levels` is empty or names a level twice; a factor is negative or not finite,
            or both are 0.

    Source:
        Guo et al., "Distilling Object Detectors via Decoupled Features", CVPR 2021, arXiv
        2103.14475 (DeFeat), its loss of neck features.
        Checked against: values by hand and a loop over cells; not against the authors' program.
        Differs: divided by the teacher's variance, not by 2; 1x1 projectors, which between equal
        channels start as the identity, where the authors' program has 3x3; counts over the whole
        batch; padding and ignore regions left out; no loss of class logits. Factors of 1, where
        the authors' recipe for Faster R-CNN on VOC has 3 and 12.
    """

    needs = Needs(student=frozenset({FEATURES_NECK}), teacher=frozenset({FEATURES_NECK}))
    is_zero_at_equality = True

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        levels: tuple[str, ...] | None = None,
        foreground: float = 1.0,
        background: float = 1.0,
    ) -> None:
        super().__init__(student, teacher)
        self.factors = {"foreground": foreground, "background": background}
        _check(self.factors)
        self.levels = compared_levels(student, teacher, levels)
        self.projectors = make_projectors(student, teacher, self.levels)

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Return "foreground" and "background"; see the class."""
        guides = [teacher.features[level].detach().float() for level in self.levels]
        shown = [cells_that_show_image(batch, guide) for guide in guides]
        kinds = [_foreground_and_background(batch, targets, cells) for cells in shown]
        own = [
            torch.cat([kind.sum((0, 2, 3)), statistics(guide, cells)])
            for guide, cells, kind in zip(guides, shown, kinds, strict=True)
        ]
        # In one message: each costs processes that wait for each other.
        totals = batch_total(torch.cat(own)).split_with_sizes([len(one) for one in own])
        values = []
        for level, guide, kind, total in zip(self.levels, guides, kinds, totals, strict=True):
            projected = self.projectors[level](student.features[level])
            difference = squared_difference(projected, guide).sum(1, keepdim=True)  # [b 1 h w]
            sums = (difference * kind).sum((0, 2, 3))  # [2]
            values.append(sums / (total[:2].clamp(min=1) * variance_of_a_cell(total[2:])))
        means = torch.stack(values).mean(0) / batch_share()  # [2]
        return {
            name: factor * mean
            for (name, factor), mean in zip(self.factors.items(), means, strict=True)
            if factor > 0
        }


def _check(factors: dict[str, float]) -> None:
    """Refuse factors without a meaning."""
    faults = [
        f"{name}: found {factor}. Accepted: a finite number of 0 or more."
        for name, factor in factors.items()
        if not (math.isfinite(factor) and factor >= 0)
    ]
    if faults:
        raise ConfigError("\n".join(faults))
    if not any(factors.values()):
        raise ConfigError(
            "foreground, background: found 0 for both, which compares nothing. At least one must "
            "be more than 0."
        )


def _foreground_and_background(
    batch: ImageBatch, targets: Sequence[Targets], shown: Tensor
) -> Tensor:
    """Return [b 2 h w], 1 where a cell that shows image is of the foreground, of the background.

    A human's ignore regions, where no box is, are neither: they hold objects that nobody drew one
    by one. A teacher's are background, like all where it is not sure of an object: they are many,
    and what its features say there shall be learned.
    """
    canvas, shape = batch.canvas, (shown.shape[2], shown.shape[3])
    boxes = [target.boxes for target in targets]
    left_open = [target.human_ignore for target in targets]
    is_object = inside_boxes(boxes, canvas=canvas, shape=shape)
    is_open = inside_boxes(left_open, canvas=canvas, shape=shape)
    return shown * torch.cat([is_object, ~(is_object | is_open)], 1)

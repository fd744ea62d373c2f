"""Which level of the teacher each level of the student learns from."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.losses.base import Observation
from distildet.losses.hands_on_guidance.levels import LevelGroup
from distildet.losses.hands_on_guidance.observed_levels import grid_of
from distildet.ops.level_affinity import linear_cka
from distildet.specs import FeatureLevel


def affinities(
    group: LevelGroup,
    student: Sequence[Observation],
    teacher: Sequence[Observation],
    *,
    stride_penalty: float,
) -> Tensor:
    """Return [own guide], CKA(S_i, T_j) - stride_penalty * |log2(stride_i / stride_j)|.

    Args:
        group: Levels that may be paired.
        student: What was observed of the student.
        teacher: Of the teacher, of the same images.
        stride_penalty: For a stride that is twice as large, or half.
    """
    guides = {guide.name: grid_of(teacher, guide.name) for guide in group.guide}
    rows = []
    for own in group.own:
        grid = grid_of(student, own.name)
        row = [
            _cka(grid, guides[guide.name]) - stride_penalty * _octaves(own, guide)
            for guide in group.guide
        ]
        rows.append(row)
    return torch.tensor(rows)


def _cka(own: Tensor, guide: Tensor) -> float:
    # A place where one of them is not finite says nothing of either.
    is_finite = own.isfinite().all(1) & guide.isfinite().all(1)
    return float(linear_cka(own[is_finite], guide[is_finite]))


def _octaves(own: FeatureLevel, guide: FeatureLevel) -> float:
    return abs(math.log2(own.stride / guide.stride))

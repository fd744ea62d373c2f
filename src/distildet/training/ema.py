"""Moving average of a detector's weights and buffers."""

import copy

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from distildet.detectors.base import Detector


class Ema:
    """A copy of the student whose state follows it slowly.

    The decay rises as (1 + t) / (10 + t) in the first steps, so that the random start is forgotten.

    Args:
        student: Whose state is averaged.
        decay: Share of the old average kept in each step, 0..1; 0 makes the average the student.
    """

    def __init__(self, student: Detector, decay: float) -> None:
        self.student = student
        self.decay = decay
        self.detector = copy.deepcopy(student).requires_grad_(requires_grad=False).eval()
        # Listed once, since that costs more than to average a small student. Buffers are not:
        # modules may put others in their place.
        self._parameters = list(self.detector.parameters()), list(student.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the student after a step.

        Args:
            step: Number of updates before this one, from 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for old, new in (
            *zip(*self._parameters, strict=True),
            *zip(self.detector.buffers(), self.student.buffers(), strict=True),
        ):
            if old.is_floating_point() and self.decay > 0:
                averaged.append(old)
                current.append(new)
            else:
                old.copy_(new)
        if averaged:
            average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call] # torch has no type
            average(averaged, current, step)

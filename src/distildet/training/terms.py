"""Terms of the training loss: a distillation loss with its weight and its course."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distildet.losses.base import DistillationLoss
from distildet.structures import DetectorOutput, ImageBatch, Targets
from distildet.training.settings import TermSettings

TOTAL = "loss"
"""Name of the sum of all losses of a step; no detector has a loss of this name."""
LEAST_WEIGHT, LARGEST_WEIGHT = 1e-3, 1e3
# Calibration ends after a tenth of the stage, at the latest after so many optimiser steps.
MOST_CALIBRATION_STEPS = 50


class AutoWeight(nn.Module):
    """A weight that gives a term its share of the detector's own loss, then stays as it is.

    During calibration it is share * (sum of detector losses) / (sum of values of the term) over
    the steps before, within 1e-3..1e3; in the first step, of which nothing is known, it is 0.
    Everything it knows are buffers, so it is in the checkpoint.

    Args:
        share: What the weighted term shall be, as a multiple of the detector's loss; > 0.
        steps: Length of the calibration in optimiser steps, at least 1.
    """

    value: Tensor
    detector_sum: Tensor
    term_sum: Tensor
    seen: Tensor

    def __init__(self, share: float, steps: int) -> None:
        super().__init__()
        self.share = share
        self.steps = steps
        for name in ("value", "detector_sum", "term_sum"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        # `seen` as a number: asking a GPU for it in each step of a stage would wait for the GPU.
        self._seen: int | None = None
        self.register_load_state_dict_post_hook(_forget_number)  # type: ignore[no-untyped-call] # torch has no type

    @torch.no_grad()
    def learn(self, detector_loss: float, term: float) -> None:
        """Learn from a step, if calibration still goes on.

        Args:
            detector_loss: Of the whole batch.
            term: Value of the term for the same images, unweighted.
        """
        if self._seen is None:
            self._seen = int(self.seen)
        if self._seen >= self.steps:
            return
        self._seen += 1
        self.seen += 1
        self.detector_sum += detector_loss
        self.term_sum += term
        # The term may be 0; the bounds then decide.
        least = torch.finfo(torch.float32).tiny
        ratio = self.share * self.detector_sum / self.term_sum.clamp(min=least)
        self.value.copy_(ratio.clamp(LEAST_WEIGHT, LARGEST_WEIGHT))


def _forget_number(weight: AutoWeight, _: object) -> None:
    """Let a weight ask again what it has seen, after that was loaded."""
    weight._seen = None


@dataclass(frozen=True, kw_only=True)
class TermValue:
    """What a term gives for a batch.

    Args:
        parts: Named values, unweighted float32 scalars, and figures of the loss.
        factor: Weight times course, a scalar without gradient.
        weighted: factor * sum of the parts that are no figures, with gradient.
    """

    parts: dict[str, Tensor]
    factor: Tensor
    weighted: Tensor


class Term(nn.Module):
    """A distillation loss with its weight and its course over a stage.

    Args:
        name: By which its parts are told, such as "feature-imitation".
        loss: With its projectors.
        settings: Weight, share and course.
        steps: Of the stage.
    """

    def __init__(
        self, name: str, loss: DistillationLoss, settings: TermSettings, *, steps: int
    ) -> None:
        super().__init__()
        self.name = name
        self.loss = loss
        self.settings = settings
        self.steps = steps
        self.auto_weight = (
            AutoWeight(settings.share, max(1, min(MOST_CALIBRATION_STEPS, steps // 10)))
            if settings.weight == "auto"
            else None
        )

    @property
    def prefix(self) -> str:
        """What the names of its parts begin with; those of a detector's losses have no dot."""
        return f"{self.name}."

    @property
    def factor_name(self) -> str:
        """The name that its factor is told by."""
        return f"{self.name}.factor"

    @property
    def figure_names(self) -> frozenset[str]:
        """Names of its parts that are not minimised."""
        return frozenset(f"{self.prefix}{figure}" for figure in self.loss.figures)

    def learn(self, values: Mapping[str, float], *, progress: float) -> None:
        """Let loss and automatic weight learn from what a batch gave; a pause teaches nothing.

        Args:
            values: By name those of the detector's losses, of the parts of all terms, their
                factors, and `TOTAL`; of the whole batch.
            progress: Share of the stage that was finished before the step, 0..1.
        """
        if self.factor_name not in values:
            return
        own = {
            name.removeprefix(self.prefix): one
            for name, one in values.items()
            if name.startswith(self.prefix) and name != self.factor_name
        }
        self.loss.learn(own, progress=progress)
        if self.auto_weight is not None:
            self.auto_weight.learn(
                sum(one for name, one in values.items() if "." not in name and name != TOTAL),
                sum(one for name, one in own.items() if name not in self.loss.figures),
            )

    def course(self, progress: float) -> float:
        """Return the factor 0..1 of a moment; 0 outside start..stop.

        Args:
            progress: Finished share of the stage, 0..1.
        """
        start, stop = self.settings.start, self.settings.stop
        if not start <= progress < stop:
            return 0.0
        passed = (progress - start) / (stop - start)
        return {
            "none": 1.0,
            "linear": 1 - passed,
            "cosine": 0.5 * (1 + math.cos(math.pi * passed)),
        }[self.settings.decay]

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
        *,
        progress: float,
    ) -> TermValue:
        """Compare the outputs of a batch, and weigh the result.

        Args:
            student: With its losses and the parts that the loss needs.
            teacher: With the parts that the loss needs.
            batch: The images.
            targets: One an image, batch frame.
            progress: Finished share of the stage, 0..1.
        """
        parts = self.loss(student, teacher, batch, targets)
        figures = self.loss.figures
        value = torch.stack([one for name, one in parts.items() if name not in figures]).sum()
        if self.auto_weight is None:
            weight = value.new_tensor(self.settings.weight)
        else:
            weight = self.auto_weight.value.clone()  # which changes in place after the step
        factor = weight * self.course(progress)
        return TermValue(
            parts={f"{self.prefix}{part}": one for part, one in parts.items()},
            factor=factor,
            weighted=factor * value,
        )


def term_names(losses: Sequence[str]) -> list[str]:
    """Return names that differ: a loss that comes again gets a number, such as "adaptive-2"."""
    counts = [losses[: index + 1].count(loss) for index, loss in enumerate(losses)]
    return [
        loss if count == 1 else f"{loss}-{count}"
        for loss, count in zip(losses, counts, strict=True)
    ]

"""The training loop: one for every stage, resumable to the bit on CPU.

Where several processes train together, each of them runs this loop on its share of every batch.
They hold the same weights after every step, and that of rank 0 writes.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distildet import artefacts
from distildet.detectors.base import Detector
from distildet.errors import DivergedError, InterruptedRunError, ResourceError
from distildet.ops.out_of_memory import (
    is_out_of_memory,
    release_cached_memory,
    told_when_out_of_memory,
)
from distildet.ops.placement import placed_on
from distildet.ops.processes import rank, wait_for_all
from distildet.ops.shared_work import on_first
from distildet.structures import ImageBatch, Targets
from distildet.training.ema import Ema
from distildet.training.interruption import Interruption
from distildet.training.loss_scale import LossScale
from distildet.training.memory import more_micro_batches, why_not_more
from distildet.training.metrics_log import MetricsLog
from distildet.training.optim import build_optimizer, learning_rate, set_learning_rate
from distildet.training.preparing import ObservedImages, Preparer
from distildet.training.rejected_batch import save_rejected_batch
from distildet.training.settings import TrainSettings
from distildet.training.shares import average_step, start_equal, whole_batch
from distildet.training.stage_state import Counters, StageState
from distildet.training.task import Task, backward

Batches = Callable[[int, int], Iterator[tuple[ImageBatch, tuple[Targets, ...]]]]
Evaluate = Callable[[Detector], Mapping[str, float | None]]
Progress = Callable[[int, int, Mapping[str, float]], None]
MAX_REJECTED_IN_A_ROW = 10


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished stage gives.

    Args:
        detector: The student with averaged weights, in eval mode.
        seconds: Wall time of all sessions that trained it.
        rejected: Steps left out because of a non-finite loss or gradient.
        overflows: Steps left out because the loss scale of fp16 was too large.
        warnings: Lines for the user, such as damaged checkpoints that were skipped.
    """

    detector: Detector
    seconds: float
    rejected: int
    overflows: int
    warnings: tuple[str, ...]


class Trainer:
    """Trains a task through one stage, from scratch or from its newest checkpoint.

    Args:
        task: Student, teacher and losses, on the CPU or already on the device.
        settings: Of the stage.
        folder: Of the stage; `checkpoints/` and `metrics.jsonl` are written there.
        batches: Gives the batches, or shares of batches, of steps start..stop-1; a pure function
            of these numbers.
        evaluate: Measures a detector on the validation images, with the same result in every
            process; None where there are none.
        device: Where to compute.
        interruption: Asked after every step.
        progress: Told finished steps, all steps, and the latest losses.
        observed: What losses look at beforehand; None where no loss of the task does.
    """

    def __init__(
        self,
        task: Task,
        settings: TrainSettings,
        folder: Path,
        *,
        batches: Batches,
        evaluate: Evaluate | None,
        device: torch.device,
        interruption: Interruption,
        progress: Progress,
        observed: ObservedImages | None = None,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.batches = batches
        self.evaluate = evaluate
        self.device = device
        self.interruption = interruption
        self.progress = progress
        self.task = placed_on(task, device)
        if task.teacher is not None:
            placed_on(task.teacher, device)
        start_equal(self.task)
        self.task.train()
        self.task.precision = settings.precision
        if settings.batch_norm == "frozen":
            task.student.freeze_batch_norm()
        self.optimizer = build_optimizer(task.student, settings, projectors=task.terms.parameters())
        self.preparer = None if observed is None else Preparer(task, observed, steps=settings.steps)
        self.loss_scale = LossScale(device, settings.precision)
        self.ema = Ema(task.student, settings.ema)
        self.log = MetricsLog(folder / "metrics.jsonl")
        self.state = StageState(
            task,
            self.ema,
            self.optimizer,
            self.loss_scale,
            self.log,
            settings=settings,
            folder=folder,
        )

    @property
    def counters(self) -> Counters:
        """What is counted from the first step of the stage on."""
        return self.state.counters

    def run(self) -> TrainResult:
        """Train to the end of the stage.

        Raises:
            DivergedError: Ten steps in a row had a non-finite loss or gradient.
            ResourceError: The disk is full, the memory is too small, or no checkpoint is whole.
            StageError: The folder holds a stage with other settings or of another student, or
                the processes have come apart.
            InterruptedRunError: A signal arrived; a checkpoint was written.
        """
        start, warnings = self.state.restore()
        started = time.monotonic() - self.counters.seconds
        evaluation_steps = self.settings.evaluation_steps()
        for step, (batch, targets) in enumerate(
            self.batches(start, self.settings.steps), start=start
        ):
            self._prepare(step)
            with told_when_out_of_memory(
                self._advice(step, "weights and their average were updated", "a smaller student")
            ):
                self._step(step, batch, targets)
            finished = step + 1
            is_evaluated = finished in evaluation_steps and self.evaluate is not None
            if is_evaluated:
                self._evaluate(finished)
            self.counters.seconds = time.monotonic() - started
            is_asked_to_stop = self.interruption.has_reached_any()
            if (
                is_evaluated
                or is_asked_to_stop
                or finished % self.settings.checkpoint_every == 0
                or finished == self.settings.steps
            ):
                self.state.save(finished)
                if is_asked_to_stop:
                    self.interruption.raise_if_requested()
        return TrainResult(
            detector=self.ema.detector,
            seconds=self.counters.seconds,
            rejected=self.counters.rejected,
            overflows=self.counters.overflows,
            warnings=(*warnings, *self._memory_warning()),
        )

    def _prepare(self, step: int) -> None:
        """Let losses look at their images, if it is time."""
        terms = [] if self.preparer is None else self.preparer.due(step)
        if self.preparer is None or not terms:
            return
        seed_everything(self.settings.seed, f"{self.settings.stage} preparation", step)
        advice = self._advice(
            step,
            "losses looked at images beforehand",
            "a smaller batch_size or data.image_size, or a larger accumulate",
        )
        try:
            with told_when_out_of_memory(advice):
                found = self.preparer.prepare(terms, self.device)
        except InterruptedRunError:
            if step > 0:
                self.state.save(step)
            raise
        self.preparer.let_go(step)
        # The record of the step that follows: whoever goes on before that step prepares again.
        self._note({"step": step + 1, "prepared": found})

    def _step(self, step: int, batch: ImageBatch, targets: Sequence[Targets]) -> None:
        rate = learning_rate(step, self.settings)
        set_learning_rate(self.optimizer, rate)
        self.task.progress = step / self.settings.steps
        buffers = self.task.buffer_values()
        own = self._backward_in_memory(step, batch, targets, buffers)
        means = average_step(self.task, self._parameters(), own)
        self.loss_scale.unscale(self.optimizer)
        # Together: every number that is asked of a GPU waits for all its work.
        *losses, norm = torch.stack([*means.values(), self._gradient_norm()]).tolist()
        values = dict(zip(means, losses, strict=True))
        loss_is_finite = bool(np.isfinite(losses).all())
        if loss_is_finite and np.isfinite(norm):
            self.task.learn(values)
            self._update(step, {**values, "gradient_norm": norm}, rate)
        elif self.loss_scale.explains(loss_is_finite=loss_is_finite):
            self.task.put_back(buffers)
            self.counters.overflows += 1
            self._note({"step": step + 1, "overflow_at_loss_scale": self.loss_scale.value})
        else:
            self._reject(step, batch, targets, buffers)
        self.loss_scale.update()

    def _update(self, step: int, values: Mapping[str, float], rate: float) -> None:
        """Change the weights, and tell of it."""
        self.counters.rejected_in_a_row = 0
        self.optimizer.step()
        self.ema.update(self.counters.updates)
        self.counters.updates += 1
        if step % max(1, self.settings.steps // 1000) == 0 or step + 1 == self.settings.steps:
            self._note({"step": step + 1, **values, "lr": rate})
        figures = self.task.figure_names
        shown = {name: value for name, value in values.items() if name not in figures}
        self.progress(step + 1, self.settings.steps, shown)

    def _backward_in_memory(
        self, step: int, batch: ImageBatch, targets: Sequence[Targets], buffers: list[Tensor]
    ) -> dict[str, Tensor]:
        """Compute gradients, with smaller micro-batches from the moment that memory runs out."""
        while True:
            seed_everything(self.settings.seed, self.settings.stage, step)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return backward(
                    self.task,
                    batch,
                    targets,
                    micro_batches=self._micro_batches(),
                    device=self.device,
                    scaled=self.loss_scale.scaled,
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = why_not_more(
                    self.task.student, batch, targets, micro_batches=self._micro_batches()
                )
                if reason is not None:
                    raise ResourceError(
                        f"{self.folder}: the memory of {self.device} ran out in step {step}: "
                        f"{reason}"
                    ) from error
            self.counters.micro_batches = more_micro_batches(len(batch), self._micro_batches())
            self.task.put_back(buffers)
            release_cached_memory()

    def _micro_batches(self) -> int:
        return max(self.settings.accumulate, self.counters.micro_batches)

    def _memory_warning(self) -> list[str]:
        if self._micro_batches() == self.settings.accumulate:
            return []
        return [
            f"{self.folder}: memory ran out, so batches were split into {self._micro_batches()} "
            f"micro-batches. Set accumulate to {self._micro_batches()} to have it so from the "
            "start."
        ]

    def _advice(self, step: int, moment: str, alternative: str) -> str:
        return (
            f"{self.folder}: the memory of {self.device} ran out in step {step}, while {moment}. "
            "Free memory and run the same command again, which goes on from the last checkpoint; "
            f"or take {alternative}, with a new --out."
        )

    def _parameters(self) -> list[torch.nn.Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _gradient_norm(self) -> Tensor:
        limit = self.settings.clip or float("inf")
        return torch.nn.utils.clip_grad_norm_(self._parameters(), limit)

    def _note(self, record: Mapping[str, Any]) -> None:
        """Keep a record; an error in it reaches the other processes when they next wait."""
        if rank() == 0:
            self.log.append(record)

    def _reject(
        self, step: int, batch: ImageBatch, targets: Sequence[Targets], buffers: list[Tensor]
    ) -> None:
        """Leave weights, buffers and average as they were before the step, and keep the batch."""
        self.task.put_back(buffers)
        path = self.folder / "rejected" / f"step-{step:06d}"
        batch, targets = whole_batch(batch, targets)
        on_first(lambda: save_rejected_batch(path, batch, targets))
        self.counters.rejected += 1
        self.counters.rejected_in_a_row += 1
        self._note({"step": step + 1, "rejected": list(batch.image_ids)})
        if self.counters.rejected_in_a_row >= MAX_REJECTED_IN_A_ROW:
            # Who ends first ends the others; all is to be written by then.
            wait_for_all()
            raise DivergedError(
                f"{self.folder}: the loss or its gradient was not finite in "
                f"{MAX_REJECTED_IN_A_ROW} steps in a row, the last being step {step}. The last "
                f"good checkpoint is in {self.state.checkpoints}, the batches are in "
                f"{path.parent}. Lower the learning rate or look at the images named there."
            )

    def _evaluate(self, finished: int) -> None:
        if self.evaluate is None:
            return
        metrics = self.evaluate(self.ema.detector)
        self._note({"step": finished, **metrics})
        ap = metrics.get("AP")
        if ap is not None and (self.counters.best_ap is None or ap > self.counters.best_ap):
            self.counters.best_ap, self.counters.best_step = ap, finished
            self.state.save_best(finished)


def seed_everything(seed: int, stage: str, step: int) -> None:
    """Seed this process's generators for one step, as a pure function of the arguments."""
    number = int(artefacts.fingerprint_json([seed, stage, step])[:15], 16)
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - foreign code draws from the global generator

"""The training loop: one for every stage, resumable to the bit on CPU.

Where several processes train together, each of them runs this loop on its share of every batch.
They hold the same weights after every step, and that of rank 0 writes.
"""

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distildet import artefacts
from distildet.detectors.base import Detector
from distildet.errors import DivergedError, ResourceError, StageError
from distildet.ops.processes import rank, wait_for_all
from distildet.ops.shared_work import on_first
from distildet.structures import ImageBatch, Targets
from distildet.training.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    step_checkpoints,
)
from distildet.training.ema import Ema
from distildet.training.interruption import Interruption
from distildet.training.memory import why_no_smaller_parts
from distildet.training.metrics_log import MetricsLog
from distildet.training.optim import build_optimizer, learning_rate, set_learning_rate
from distildet.training.rejected_batch import save_rejected_batch
from distildet.training.settings import TrainSettings
from distildet.training.shares import average_step, refuse_differences, start_equal, whole_batch
from distildet.training.task import Task, backward

Batches = Callable[[int, int], Iterator[tuple[ImageBatch, tuple[Targets, ...]]]]
Evaluate = Callable[[Detector], Mapping[str, float | None]]
Progress = Callable[[int, int, Mapping[str, float]], None]
MAX_REJECTED_IN_A_ROW = 10
KEPT_CHECKPOINTS = 2


@dataclass
class _Counters:
    """What a checkpoint remembers beside tensors."""

    micro_batches: int = 1
    rejected: int = 0
    rejected_in_a_row: int = 0
    updates: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_ap: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a finished stage gives.

    Args:
        detector: The student with averaged weights, in eval mode.
        seconds: Wall time of all sessions that trained it.
        rejected: Steps left out because of a non-finite loss or gradient.
        warnings: Lines for the user, such as damaged checkpoints that were skipped.
    """

    detector: Detector
    seconds: float
    rejected: int
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
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.batches = batches
        self.evaluate = evaluate
        self.device = device
        self.interruption = interruption
        self.progress = progress
        # Convolutions are faster in this layout, on CPU and GPU.
        self.task = task.to(device).to(memory_format=torch.channels_last)
        if task.teacher is not None:
            task.teacher.to(device).to(memory_format=torch.channels_last)
        start_equal(self.task)
        self.task.train()
        if settings.batch_norm == "frozen":
            task.student.freeze_batch_norm()
        self.optimizer = build_optimizer(task.student, settings, projectors=task.terms.parameters())
        self.ema = Ema(task.student, settings.ema)
        self.counters = _Counters(settings=settings.as_json())
        self.log = MetricsLog(folder / "metrics.jsonl")

    def run(self) -> TrainResult:
        """Train to the end of the stage.

        Raises:
            DivergedError: Ten steps in a row had a non-finite loss or gradient.
            ResourceError: The disk is full, the memory is too small, or no checkpoint is whole.
            StageError: The folder holds a stage with other settings or of another student, or
                the processes have come apart.
            InterruptedRunError: A signal arrived; a checkpoint was written.
        """
        start, warnings = self._restore()
        started = time.monotonic() - self.counters.seconds
        evaluation_steps = self.settings.evaluation_steps()
        for step, (batch, targets) in enumerate(
            self.batches(start, self.settings.steps), start=start
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
                self._save(finished)
                if is_asked_to_stop:
                    self.interruption.raise_if_requested()
        return TrainResult(
            detector=self.ema.detector,
            seconds=self.counters.seconds,
            rejected=self.counters.rejected,
            warnings=(*warnings, *self._memory_warning()),
        )

    def _step(self, step: int, batch: ImageBatch, targets: Sequence[Targets]) -> None:
        rate = learning_rate(step, self.settings)
        set_learning_rate(self.optimizer, rate)
        self.task.progress = step / self.settings.steps
        buffers = [buffer.clone() for buffer in self.task.buffers()]
        parts = self._backward_in_memory(step, batch, targets, buffers)
        values = average_step(self.task, self._parameters(), parts)
        values["gradient_norm"] = float(self._gradient_norm())
        if not all(np.isfinite(value) for value in values.values()):
            self._reject(step, batch, targets, buffers)
            return
        self.counters.rejected_in_a_row = 0
        self.optimizer.step()
        self.ema.update(self.counters.updates)
        self.counters.updates += 1
        if step % max(1, self.settings.steps // 1000) == 0 or step + 1 == self.settings.steps:
            self._note({"step": step + 1, **values, "lr": rate})
        self.progress(step + 1, self.settings.steps, values)

    def _backward_in_memory(
        self, step: int, batch: ImageBatch, targets: Sequence[Targets], buffers: list[Tensor]
    ) -> dict[str, Tensor]:
        """Compute gradients, with smaller micro-batches from the moment that memory runs out."""
        while True:
            seed_everything(self.settings.seed, self.settings.stage, step)
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return backward(
                    self.task, batch, targets, parts=self._micro_batches(), device=self.device
                )
            except torch.OutOfMemoryError as error:
                reason = why_no_smaller_parts(
                    self.task.student, batch, targets, parts=self._micro_batches()
                )
                if reason is not None:
                    raise ResourceError(
                        f"{self.folder}: the memory of {self.device} ran out in step {step}: "
                        f"{reason}"
                    ) from error
            self.counters.micro_batches = 2 * self._micro_batches()
            self._put_back(buffers)
            torch.cuda.empty_cache()

    def _micro_batches(self) -> int:
        return max(self.settings.accumulate, self.counters.micro_batches)

    def _memory_warning(self) -> list[str]:
        if self._micro_batches() == self.settings.accumulate:
            return []
        return [
            f"{self.folder}: memory ran out, so batches were split into {self._micro_batches()} "
            f"parts. Set accumulate to {self._micro_batches()} to have it so from the start."
        ]

    def _put_back(self, buffers: list[Tensor]) -> None:
        for buffer, before in zip(self.task.buffers(), buffers, strict=True):
            buffer.copy_(before)

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
        self._put_back(buffers)
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
                f"good checkpoint is in {self.folder / 'checkpoints'}, the batches are in "
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
            folder, checkpoint = self.folder / "checkpoints", self._checkpoint(finished)
            on_first(lambda: save_checkpoint(folder, "best", checkpoint))

    def _checkpoint(self, finished: int) -> Checkpoint:
        return Checkpoint(
            step=finished,
            tensors={
                "model": self.task.state_dict(),
                "ema": self.ema.detector.state_dict(),
                "optimizer": optimizer_tensors(self.optimizer),
            },
            state=vars(self.counters),
        )

    def _save(self, finished: int) -> None:
        refuse_differences(self.task.state_dict(), str(self.folder))
        on_first(lambda: self._write(finished))

    def _write(self, finished: int) -> None:
        # A checkpoint promises that the records up to its step are there.
        self.log.flush()
        folder = self.folder / "checkpoints"
        save_checkpoint(folder, f"step-{finished:06d}", self._checkpoint(finished))
        for outdated in step_checkpoints(folder)[:-KEPT_CHECKPOINTS]:
            artefacts.remove_folder(outdated)

    def _newest(self) -> tuple[Checkpoint | None, list[str]]:
        """Return the newest checkpoint, after removing what a kill has left behind."""
        for folder in (self.folder, self.folder / "rejected"):
            artefacts.remove_partial(folder)
        return newest_checkpoint(self.folder / "checkpoints")

    def _restore(self) -> tuple[int, list[str]]:
        # Read once and handed on, so that all go on from the same step.
        checkpoint, warnings = on_first(self._newest)
        if checkpoint is None:
            on_first(lambda: self.log.keep_until(0))
            return 0, warnings
        counters = _Counters(**checkpoint.state)
        changes = self.settings.changes_from(counters.settings)
        if changes:
            raise StageError(
                f"{self.folder}: the stage was begun with other settings: {'; '.join(changes)}. "
                "Put them back, choose another --out, or delete this folder."
            )
        self.counters = counters
        try:
            self.task.load_state_dict(dict(checkpoint.tensors["model"]))
            self.ema.detector.load_state_dict(dict(checkpoint.tensors["ema"]))
        except RuntimeError as error:
            raise StageError(
                f"{self.folder}: its checkpoint belongs to another student ({error}). Take the "
                "student that the stage was begun with, or delete this folder."
            ) from error
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])
        on_first(lambda: self.log.keep_until(checkpoint.step))
        return checkpoint.step, warnings


def seed_everything(seed: int, stage: str, step: int) -> None:
    """Seed this process's generators for one step, as a pure function of the arguments."""
    number = int(artefacts.fingerprint_json([seed, stage, step])[:15], 16)
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)  # noqa: NPY002 - foreign code draws from the global generator

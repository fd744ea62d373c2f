"""What a stage remembers from step to step, on its way to checkpoints and back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from distildet import artefacts
from distildet.errors import StageError
from distildet.ops.shared_work import on_first
from distildet.training.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    step_checkpoints,
)
from distildet.training.ema import Ema
from distildet.training.loss_scale import LossScale
from distildet.training.metrics_log import MetricsLog
from distildet.training.settings import TrainSettings
from distildet.training.shares import refuse_differences
from distildet.training.task import Task

KEPT_CHECKPOINTS = 2


@dataclass
class Counters:
    """What a checkpoint remembers beside tensors."""

    micro_batches: int = 1
    rejected: int = 0
    rejected_in_a_row: int = 0
    overflows: int = 0
    updates: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_ap: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    loss_scale: dict[str, Any] = field(default_factory=dict)


class StageState:
    """The state of a stage, equal in all processes; that of rank 0 reads and writes.

    Args:
        task: Student and terms.
        ema: Average of the student.
        optimizer: Of the task's parameters.
        loss_scale: Of the losses.
        log: Whose records belong to the checkpoints.
        settings: Of the stage.
        folder: Of the stage.
    """

    def __init__(
        self,
        task: Task,
        ema: Ema,
        optimizer: torch.optim.Optimizer,
        loss_scale: LossScale,
        log: MetricsLog,
        *,
        settings: TrainSettings,
        folder: Path,
    ) -> None:
        self.task = task
        self.ema = ema
        self.optimizer = optimizer
        self.loss_scale = loss_scale
        self.log = log
        self.settings = settings
        self.folder = folder
        self.counters = Counters(settings=settings.as_json())

    @property
    def checkpoints(self) -> Path:
        """The folder of all checkpoints of the stage."""
        return self.folder / "checkpoints"

    def save(self, finished: int) -> None:
        """Write a checkpoint after so many steps, and delete those that it makes needless.

        Raises:
            ResourceError: The disk is full; older checkpoints are intact.
            StageError: The processes have come apart.
        """
        refuse_differences(self.task.state_dict(), str(self.folder))
        on_first(lambda: self._write(finished))

    def save_best(self, finished: int) -> None:
        """Write the checkpoint of the best student so far.

        Raises:
            ResourceError: The disk is full; older checkpoints are intact.
        """
        on_first(lambda: save_checkpoint(self.checkpoints, "best", self._checkpoint(finished)))

    def restore(self) -> tuple[int, list[str]]:
        """Go back to the newest checkpoint that is whole.

        Returns:
            The number of finished steps, 0 without a checkpoint; and one line for each checkpoint
            that is damaged.

        Raises:
            ResourceError: There are checkpoints, and none is whole.
            StageError: The folder holds a stage with other settings or of another student.
        """
        # Read once and handed on, so that all processes go on from the same step.
        checkpoint, warnings = on_first(self._newest)
        finished = 0
        if checkpoint is not None:
            self._load(checkpoint)
            finished = checkpoint.step
        on_first(lambda: self.log.keep_until(finished))
        return finished, warnings

    def _write(self, finished: int) -> None:
        # A checkpoint promises that the records up to its step are there.
        self.log.flush()
        save_checkpoint(self.checkpoints, f"step-{finished:06d}", self._checkpoint(finished))
        for outdated in step_checkpoints(self.checkpoints)[:-KEPT_CHECKPOINTS]:
            artefacts.remove_folder(outdated)

    def _newest(self) -> tuple[Checkpoint | None, list[str]]:
        for folder in (self.folder, self.folder / "rejected"):
            artefacts.remove_partial(folder)
        return newest_checkpoint(self.checkpoints)

    def _checkpoint(self, finished: int) -> Checkpoint:
        return Checkpoint(
            step=finished,
            tensors={
                "model": self.task.state_dict(),
                "ema": self.ema.detector.state_dict(),
                "optimizer": optimizer_tensors(self.optimizer),
            },
            state={**vars(self.counters), "loss_scale": self.loss_scale.state()},
        )

    def _load(self, checkpoint: Checkpoint) -> None:
        counters = Counters(**checkpoint.state)
        changes = self.settings.changes_from(counters.settings)
        if changes:
            raise StageError(
                f"{self.folder}: the stage was begun with other settings: {'; '.join(changes)}. "
                "Put them back, choose another --out, or delete this folder."
            )
        try:
            self.task.load_state_dict(dict(checkpoint.tensors["model"]))
            self.ema.detector.load_state_dict(dict(checkpoint.tensors["ema"]))
        except RuntimeError as error:
            raise StageError(
                f"{self.folder}: its checkpoint belongs to another student ({error}). Take the "
                "student that the stage was begun with, or delete this folder."
            ) from error
        restore_optimizer(self.optimizer, checkpoint.tensors["optimizer"])
        self.loss_scale.restore(counters.loss_scale)
        self.counters = counters

"""Shows images to the losses of a stage, before they are first computed and again later."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from distildet.detectors.base import Detector
from distildet.losses.base import Observation
from distildet.ops.precision import network_precision
from distildet.ops.processes import num_processes
from distildet.ops.shared_work import on_first, share_out
from distildet.structures import ImageBatch, Targets, move_targets
from distildet.training.task import Task
from distildet.training.terms import Term

Batches = Callable[[Sequence[int]], Iterator[tuple[ImageBatch, Sequence[Targets]]]]
BATCHES_AT_ONCE = 8
"""Batches after which processes tell each other what they have seen, errors and signals too."""


@dataclass(frozen=True, kw_only=True)
class ObservedImages:
    """The images that losses look at beforehand, in batches that never change.

    Args:
        batches: Gives the batches of these numbers, with the observed objects as targets.
        num_batches: Of all processes together.
        steps_per_pass: Optimiser steps in which the stage goes through its images once.
        progress: Told finished and all batches of this process, for one of the networks; what it
            raises ends the run.
        remark: Told what a loss remarks about what it has seen, each line once.
    """

    batches: Batches
    num_batches: int
    steps_per_pass: float
    progress: Callable[[int, int], None]
    remark: Callable[[str], None]


class Preparer:
    """Prepares the losses of a task when their time has come.

    What the teacher says about the images never changes, and is kept from the first time to the
    last.

    Args:
        task: On its device.
        images: What the losses look at.
        steps: Of the stage.
    """

    def __init__(self, task: Task, images: ObservedImages, *, steps: int) -> None:
        self._task = task
        self._images = images
        self._steps = steps
        self._of_teacher: dict[str, list[Observation]] = {}
        # What was remarked on the pair is known before.
        self._told = {(term.name, line) for term in task.preparations for line in term.loss.remarks}
        # Term -> steps from one look to the next, and how many looks at most; None: no bound.
        self._every: dict[Term, int] = {}
        self._times: dict[Term, int | None] = {}
        # Term -> the step before which its loss looks first: that of its first value.
        self._first: dict[Term, int] = {}
        for term, preparation in task.preparations.items():
            every, times = preparation.every, preparation.times
            self._every[term] = 1 if every is None else max(1, round(every * images.steps_per_pass))
            self._times[term] = 1 if every is None else times
            values = (step for step in range(steps) if term.course(step / steps) > 0)
            self._first[term] = next(values, steps)
        # Term -> the step before which its loss looks for the last time.
        self._last = {
            term: max((step for step in range(steps) if self._is_due(term, step)), default=0)
            for term in self._every
        }

    def due(self, step: int) -> list[Term]:
        """Return the terms whose losses look at the images before a step, by the step alone."""
        return [term for term in self._every if self._is_due(term, step)]

    def prepare(self, terms: Sequence[Term], device: torch.device) -> dict[str, Any]:
        """Let the losses of terms look; every process comes here, and all keep the same.

        Args:
            terms: As `due` returns them.
            device: Where the task is.

        Returns:
            By the name of each term what its loss has found, as JSON values.

        Raises:
            DataError: An image cannot be decoded.
            InterruptedRunError: A signal has arrived in any process, as `progress` says.
        """
        new = [term for term in terms if term.name not in self._of_teacher]
        teacher = self._task.teacher
        seen = self._seen(self._task.student, terms, device)
        if new and teacher is not None:
            self._of_teacher |= self._seen(teacher, new, device)
        found = {}
        for term in terms:
            of_student, of_teacher = seen[term.name], self._of_teacher[term.name]
            found[term.name] = _prepare_on_first(term, of_student, of_teacher)
            for line in term.loss.remarks:
                if (term.name, line) not in self._told:
                    self._told.add((term.name, line))
                    self._images.remark(f"{term.name}: {line}")
        return found

    def let_go(self, step: int) -> None:
        """Forget what the teacher has said for losses that look at nothing after a step."""
        for term, last in self._last.items():
            if step >= last:
                self._of_teacher.pop(term.name, None)

    def _is_due(self, term: Term, step: int) -> bool:
        if term.course(step / self._steps) == 0:
            return False
        looks, remainder = divmod(step - self._first[term], self._every[term])
        times = self._times[term]
        return remainder == 0 and (times is None or looks < times)

    @torch.no_grad()
    def _seen(
        self, detector: Detector, terms: Sequence[Term], device: torch.device
    ) -> dict[str, list[Observation]]:
        """Return by term what its loss needs of a detector, batch by batch."""
        wanted = frozenset[str]().union(*(self._task.preparations[term].parts for term in terms))

        def observe(numbers: Sequence[int]) -> Iterator[list[Observation]]:
            batches = self._images.batches(numbers)
            for count, (batch, targets) in enumerate(batches, start=1):
                images, objects = batch.to(device), move_targets(targets, device)
                with network_precision(device, self._task.precision):
                    output = detector(images, want=wanted)
                yield [
                    {
                        name: one.cpu()
                        for name, one in term.loss.observe(output, images, objects).items()
                    }
                    for term in terms
                ]
                self._images.progress(count, len(numbers))

        with _in_eval_mode(detector):
            observed, error = share_out(
                range(self._images.num_batches), observe, at_once=BATCHES_AT_ONCE
            )
        if error is not None:
            raise error
        return {
            term.name: [of_batch[place] for of_batch in observed]
            for place, term in enumerate(terms)
        }


def _prepare_on_first(
    term: Term, student: Sequence[Observation], teacher: Sequence[Observation]
) -> Mapping[str, Any]:
    """Prepare a loss in one process, and give its buffers to the others."""

    def prepare() -> tuple[Mapping[str, Any], dict[str, torch.Tensor]]:
        found = term.loss.prepare(student, teacher)
        return found, {name: one.cpu() for name, one in term.loss.named_buffers()}

    found, buffers = on_first(prepare)
    if num_processes() > 1:
        # As from a checkpoint: a loss may then forget what it remembers of its buffers.
        term.loss.load_state_dict(buffers, strict=False)
    return found


@contextmanager
def _in_eval_mode(module: nn.Module) -> Iterator[None]:
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)

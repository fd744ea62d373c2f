"""The task: what a training step computes from a batch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distildet.detectors.base import BatchNorms, Detector
from distildet.errors import ConfigError
from distildet.losses.base import Preparation, given_to_teacher
from distildet.ops.draws import (
    draw_seed,
    generator_states,
    set_generator_states,
    with_step_seed,
)
from distildet.ops.precision import Precision, network_precision
from distildet.ops.reduce import add_up, counting, with_totals
from distildet.structures import LOSSES, DetectorOutput, ImageBatch, Targets, move_targets
from distildet.training.terms import TOTAL, Term, TermValue


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """Result of one forward pass of a task.

    Args:
        total: Scalar to minimise, with gradient: the sum of the detector's own losses and of each
            term times its factor.
        parts: Named float32 scalars: losses of the detector, unweighted parts of the terms and
            their figures.
        factors: Factor of each term, without gradient, such as "feature-imitation.factor".
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    factors: Mapping[str, Tensor] = field(default_factory=dict)


class Task(nn.Module):
    """Student and everything trained with it; all state of a stage lives in here.

    The teacher is no submodule: it has no state of the stage, so it is neither in the state dict
    nor moved, counted or put in training mode with the task.

    Args:
        student: The detector that learns.
        teacher: The detector that the terms compare it with; it is frozen, in eval mode.
        terms: Distillation losses; those with weight 0 are left out.

    Raises:
        ConfigError: There are terms but no teacher.
    """

    def __init__(
        self, student: Detector, teacher: Detector | None = None, terms: Iterable[Term] = ()
    ) -> None:
        super().__init__()
        self.student = student
        self.terms = nn.ModuleList(term for term in terms if term.settings.weight != 0)
        if teacher is None and len(self.terms) > 0:
            raise ConfigError(
                "distill: a distillation loss compares the student with a teacher, and there is "
                "none. Give a teacher, or remove `distill`."
            )
        # In a tuple, because nn.Module registers every module that is assigned to it.
        self._teacher = () if teacher is None else (teacher.eval().requires_grad_(False),)  # noqa: FBT003 - torch's signature
        self.progress = 0.0
        """Finished share of the stage, 0..1, as the loop says."""
        self.precision: Precision = "fp32"
        """What student and teacher compute in, as the loop says; losses compute in float32."""

    @property
    def teacher(self) -> Detector | None:
        """The frozen teacher, if there is one."""
        return self._teacher[0] if self._teacher else None

    def forward(self, batch: ImageBatch, targets: Sequence[Targets]) -> StepLosses:
        """Return the losses of a batch.

        Args:
            batch: Images, on the student's device.
            targets: One an image, batch frame.
        """
        terms = self._active_terms()
        wanted = frozenset({LOSSES}).union(*(term.loss.needs.student for term in terms))
        # The student comes first: a teacher may be given what the student produced.
        with network_precision(batch.pixels.device, self.precision):
            output: DetectorOutput = self.student(batch, targets, want=wanted)
        total = sum(output.losses.values(), start=batch.pixels.new_zeros(()))
        parts, factors = dict(output.losses), {}
        guide = self._guide(batch, terms, output)
        for term in terms:
            value: TermValue = term(output, guide, batch, targets, progress=self.progress)
            total = total + value.weighted
            parts |= value.parts
            factors[term.factor_name] = value.factor
        return StepLosses(total=total, parts=parts, factors=factors)

    @property
    def preparations(self) -> dict[Term, Preparation]:
        """What the losses look at beforehand, of the terms whose losses do."""
        return {
            term: term.loss.preparation
            for term in self.terms
            if isinstance(term, Term) and term.loss.preparation is not None
        }

    @property
    def figure_names(self) -> frozenset[str]:
        """Names of parts that are told in the log alone, and not minimised."""
        return frozenset[str]().union(
            *(term.figure_names for term in self.terms if isinstance(term, Term))
        )

    @property
    def counts_over_batch(self) -> bool:
        """Whether the losses of a micro-batch depend on the others, or on other processes."""
        return self.student.counts_over_batch or any(
            term.loss.counts_over_batch for term in self._active_terms()
        )

    def learn(self, values: Mapping[str, float]) -> None:
        """Let losses and automatic weights learn from a step.

        Args:
            values: As `backward` returns them; means over all processes.
        """
        for term in self._active_terms():
            term.learn(values, progress=self.progress)

    def buffer_values(self) -> list[Tensor]:
        """Return copies of the buffers that a forward pass may change, for `put_back`."""
        return [buffer.clone() for buffer in self._changing_buffers()]

    @torch.no_grad()
    def put_back(self, values: Sequence[Tensor]) -> None:
        """Give these buffers the values that `buffer_values` returned in the same mode."""
        for buffer, value in zip(self._changing_buffers(), values, strict=True):
            buffer.copy_(value)

    def _changing_buffers(self) -> Iterator[Tensor]:
        """Yield them: of the terms only BatchNorm has such, and where it is frozen it has none."""
        for module in self.student.modules():
            if module.training:
                yield from module.buffers(recurse=False)
        for module in self.terms.modules():
            if module.training and isinstance(module, BatchNorms):
                yield from module.buffers(recurse=False)

    def _active_terms(self) -> list[Term]:
        return [
            term for term in self.terms if isinstance(term, Term) and term.course(self.progress) > 0
        ]

    @torch.no_grad()
    def _guide(
        self, batch: ImageBatch, terms: Sequence[Term], student: DetectorOutput
    ) -> DetectorOutput:
        """Return what the terms need of the teacher, from one pass."""
        needs = [term.loss.needs for term in terms]
        needed = frozenset[str]().union(*(one.teacher for one in needs))
        if self.teacher is None or not needed:
            return DetectorOutput()
        with network_precision(batch.pixels.device, self.precision):
            output: DetectorOutput = self.teacher(
                batch, want=needed, given=given_to_teacher(needs, student)
            )
        return output


def split_batch(
    batch: ImageBatch, targets: Sequence[Targets], num_micro_batches: int
) -> list[tuple[ImageBatch, Sequence[Targets]]]:
    """Split a batch into micro-batches on the same padded canvas, equal but for the last.

    Args:
        batch: Images.
        targets: One an image.
        num_micro_batches: Most that there shall be.
    """
    size = -(-len(batch) // num_micro_batches)
    return [
        (batch.part(start, start + size), targets[start : start + size])
        for start in range(0, len(batch), size)
    ]


def backward(
    task: Task,
    batch: ImageBatch,
    targets: Sequence[Targets],
    *,
    micro_batches: int,
    device: torch.device,
    scaled: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Add the gradients of a batch, one micro-batch after the other.

    The gradients are those of the whole batch, however it is split; only statistics of BatchNorm
    in train mode are of each micro-batch, and dropout draws for each in turn. Losses that count
    over the batch cost a further pass without gradient where there are several micro-batches; in
    it, torch's generators of the CPU and the device draw what they draw in the pass that counts.

    Args:
        task: Whose parameters get the gradients.
        batch: Images.
        targets: One an image.
        micro_batches: Most that the batch is split into.
        device: Where the task is.
        scaled: Enlarges the loss that gradients are computed from, and so the gradients.

    Returns:
        The named losses and factors, and "loss", the total; means over the images, without
        gradient.
    """
    split = split_batch(batch, targets, micro_batches)
    means: dict[str, Tensor] = {}
    # Drawn before anything that depends on the images: processes that began alike draw alike.
    with with_step_seed(draw_seed()):
        counts = len(split) > 1 and task.counts_over_batch
        totals, draws = _totals(task, split, device) if counts else ([], [])
        for place, (images, their_targets) in enumerate(split):
            share = len(images) / len(batch)
            if draws:
                set_generator_states(draws[place], device)
            with nullcontext() if len(split) == 1 else with_totals(share, totals):
                losses: StepLosses = task(images.to(device), move_targets(their_targets, device))
            loss = losses.total * share
            (loss if scaled is None else scaled(loss)).backward()  # type: ignore[no-untyped-call] # torch has no type
            for name, value in {**losses.parts, **losses.factors, TOTAL: losses.total}.items():
                means[name] = means.get(name, value.new_zeros(())) + value.detach() * share
    return means


@torch.no_grad()
def _totals(
    task: Task, split: Sequence[tuple[ImageBatch, Sequence[Targets]]], device: torch.device
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Return what the losses count in all micro-batches, and from where each of them drew.

    The buffers of the task are left as they were.
    """
    before = task.buffer_values()
    num_images = sum(len(images) for images, _ in split)
    counted, draws = [], []
    for images, their_targets in split:
        draws.append(generator_states(device))
        with counting(len(images) / num_images) as values:
            task(images.to(device), move_targets(their_targets, device))
        counted.append(values)
    task.put_back(before)
    return add_up(counted), draws

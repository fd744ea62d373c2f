"""The contract of a distillation loss: two specs and options in, named unweighted parts out."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from distildet.errors import DistildetError, MissingPartError
from distildet.registry import Registry
from distildet.specs import DetectorSpec
from distildet.structures import DETECTIONS, GIVEN_PARTS, DetectorOutput, ImageBatch, Targets

LOSSES: Registry[Any] = Registry("distillation loss")
Observation: TypeAlias = Mapping[str, Tensor]
"""What a loss keeps of one network's output about a batch, by names of its own."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """The parts that a loss reads, words of `distildet.structures.PARTS`.

    Args:
        student: Of the student's output.
        teacher: Of the teacher's output.
        given: Of the student's output, those that the teacher is given to work on in place of its
            own, such as regions that its head shall judge.

    Raises:
        ValueError: A part in `given` cannot be given, or is not in `student`.
    """

    student: frozenset[str]
    teacher: frozenset[str]
    given: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse to give what no detector takes, or what the student is not asked for."""
        for found, accepted, where in (
            (self.given - GIVEN_PARTS, GIVEN_PARTS, "distildet.structures.GIVEN_PARTS"),
            (self.given - self.student, self.student, "the parts needed of the student"),
        ):
            if found:
                raise ValueError(
                    f"Needs: `given` has {', '.join(sorted(found))}. "
                    f"Accepted are {where}: {', '.join(sorted(accepted)) or 'none'}."
                )


def check_parts(needs: Needs, student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse a pair that does not have what is needed of it.

    Args:
        needs: Parts of both.
        student: Facts of the student.
        teacher: Facts of the teacher.

    Raises:
        MissingPartError: Student or teacher does not have a part.
    """
    faults = [
        f"the {role} {spec.family!r} does not have {', '.join(sorted(needed - spec.parts))} "
        f"(it has {', '.join(sorted(spec.parts))})"
        for role, spec, needed in (
            ("student", student, needs.student),
            ("teacher", teacher, needs.teacher),
        )
        if needed - spec.parts
    ]
    if faults:
        advice = ""
        if teacher.parts == {DETECTIONS}:
            advice = (
                " Of such a teacher nothing is known but its boxes: it serves pseudo labels "
                "(preset pseudo-label, or a label stage), and no loss that needs more."
            )
        raise MissingPartError(f"{' and '.join(faults)}.{advice}")


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What a loss looks at before it is first computed, and how often it looks again.

    Args:
        parts: That it reads of each detector's output, words of `distildet.structures.PARTS`.
        every: Passes over the images of the stage after which it looks again, above 0; None: never.
        times: How often it looks at most, at least 1; None: as often as `every` says.
        objects: Of each class that it wants to look at, where there are so many; beside a loss that
            wants more, or smaller ones, it is shown more.
        least_side: What the shorter side of an object's box must exceed, as a share of the image's
            shorter side, to be one of them; 0 for any object.
        images: That it wants to look at, where there are so many, whatever is in them; beside a
            loss that wants more, or objects, it is shown more.
    """

    parts: frozenset[str]
    every: float | None
    times: int | None = None
    objects: int = 0
    least_side: float = 0.0
    images: int = 0


class DistillationLoss(nn.Module, ABC):
    """Compares what a student and its teacher say about one batch.

    The keyword-only arguments of a subclass's constructor are its options in a recipe; each has a
    default. Projectors are submodules: they are trained with the student and never exported.

    A loss with a `preparation` looks at a fixed choice of images before it is first computed, and
    again while the student learns: `observe` takes from each network's output what it needs,
    `prepare` keeps what follows from that in buffers, which checkpoints hold. After each step
    `learn` may change buffers too.

    Class attributes:
        needs: The parts that `forward` reads; of an object those that it reads of its pair.
        is_zero_at_equality: Whether a fresh loss is 0 where both outputs are the same; of an object
            whether it is with its options.
        counts_over_batch: Whether it calls `distildet.ops.reduce.batch_total`, that is, whether
            it is more than a mean over images.
        preparation: What it looks at beforehand; None: nothing.
        figures: Names of what `forward` returns beside the parts of the loss: told in the log of
            the stage, not minimised.
        remarks: Lines for the user about what it does with this pair and its options, and, once it
            is prepared, with what it has seen.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.

    Raises:
        MissingPartError: Student or teacher does not have a part in `needs`.
    """

    needs: Needs
    is_zero_at_equality: bool = False
    counts_over_batch: ClassVar[bool] = True
    preparation: Preparation | None = None
    figures: frozenset[str] = frozenset()
    remarks: tuple[str, ...] = ()

    def __init__(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        super().__init__()
        self.needs = self.needs_of(student, teacher)
        check_parts(self.needs, student, teacher)

    @classmethod
    def needs_of(
        cls,
        student: DetectorSpec,  # noqa: ARG003 - a loss for several kinds of heads asks
        teacher: DetectorSpec,  # noqa: ARG003 - likewise
    ) -> Needs:
        """Return the parts that `forward` reads of a pair, with the options left as they are.

        That is `needs` where every pair is alike. An object may need others with its options.

        Args:
            student: Facts of the student.
            teacher: Facts of the teacher.
        """
        return cls.needs

    @abstractmethod
    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Return the named parts, unweighted float32 scalars, and `figures`, if it has any.

        Args:
            student: With the parts of `needs.student`, with gradient.
            teacher: With the parts of `needs.teacher`, of the same batch; gets no gradient.
            batch: The images that both have seen.
            targets: One an image, batch frame; boxes of people or pseudo labels, or none.
        """

    def learn(self, values: Mapping[str, float], *, progress: float) -> None:
        """Learn from a step, in buffers and by the arguments alone; most losses do not.

        Args:
            values: What `forward` returned, of the whole batch, by name.
            progress: Share of the stage, 0..1, that was finished before the step.
        """

    def observe(
        self, output: DetectorOutput, batch: ImageBatch, targets: Sequence[Targets]
    ) -> Observation:
        """Return what `prepare` needs of the student, or of the teacher, about one batch.

        Args:
            output: Of one of the two, with the parts of `preparation`, without gradient.
            batch: Images as they are, whole and unchanged.
            targets: One an image, batch frame, with the objects that are observed alone; none
                where a loss wants the image for itself.
        """
        raise NotImplementedError(f"{type(self).__name__} has no preparation.")

    def prepare(
        self, student: Sequence[Observation], teacher: Sequence[Observation]
    ) -> Mapping[str, Any]:
        """Fill the buffers that `forward` reads, by the arguments and torch's generator alone.

        Args:
            student: What `observe` returned of each batch, on the CPU, in the same order each time.
            teacher: Likewise.

        Returns:
            What was found, as JSON values, for the record of the stage.
        """
        raise NotImplementedError(f"{type(self).__name__} has no preparation.")

    def chosen(self) -> Mapping[str, Sequence[int]]:
        """Return by class name which observed objects it chose, for people to look at; or nothing.

        Objects are numbered from 0 through all batches, in the order of `prepare`.
        """
        return {}


def given_to_teacher(needs: Iterable[Needs], student: DetectorOutput) -> dict[str, Any]:
    """Return what a teacher is given to work on: the argument `given` of its forward pass.

    Args:
        needs: Of the losses that read the teacher's output.
        student: What the student said about the same batch, with the parts that they need of it.
    """
    parts = frozenset[str]().union(*(one.given for one in needs))
    return {part: getattr(student, part) for part in parts}


def misfit(
    loss_name: str, student: DetectorSpec, teacher: DetectorSpec, options: Mapping[str, Any]
) -> str | None:
    """Say why a loss cannot be used for a pair of detectors, before anything is trained.

    Where it can be used with its default options, the given ones are at fault and not the pair.

    Args:
        loss_name: A registered name.
        student: Facts of the student; no weights are needed.
        teacher: Facts of the teacher.
        options: Of the loss, typed.

    Returns:
        What is wrong with the options; or what is missing, what the pair has and which losses do
        fit it. None where the loss fits.

    Raises:
        ConfigError: No loss is registered under this name.
    """
    reason = _reason(loss_name, student, teacher, options)
    if reason is None:
        return None
    reason_of_pair = _reason(loss_name, student, teacher, {})
    if reason_of_pair is None:
        return reason
    fitting = [name for name in LOSSES.names() if _reason(name, student, teacher, {}) is None]
    advice = (
        f"With their default options these losses fit this pair: {', '.join(fitting)}."
        if fitting
        else "No registered loss fits this pair; it can learn from pseudo labels."
    )
    return f"loss {loss_name!r} does not fit this pair: {reason_of_pair} {advice}"


def _reason(
    loss_name: str, student: DetectorSpec, teacher: DetectorSpec, options: Mapping[str, Any]
) -> str | None:
    cls = LOSSES.get(loss_name)
    try:
        # On this device projectors take no memory and draw no random numbers.
        with torch.device("meta"):
            cls(student, teacher, **options)
    except DistildetError as error:
        return str(error)
    return None

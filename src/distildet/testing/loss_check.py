"""The contract of a distillation loss, as claims that are checked for a pair of detectors."""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from distildet import structures
from distildet.detectors.base import Detector
from distildet.losses.base import LOSSES, DistillationLoss, given_to_teacher
from distildet.ops.reduce import add_up, counting, with_totals
from distildet.registry import Registry
from distildet.structures import DetectorOutput, ImageBatch, Origin, Targets
from distildet.testing.recorded_output import RecordedOutput, tensors_in, with_tensors

IMAGES = 3
EXTREME = 1e4
DESCENT_STEPS = 20
DESCENT_RATE = 3e-3
NEARLY_ZERO = 1e-6
# Names of what stands beside the options in an entry of a recipe's `distill`.
ENTRY_KEYS = frozenset({"loss", "weight", "share", "schedule"})
_PREDICTED_FIELDS = frozenset({"features", "logits", "quality_logits", "box_codes"})


@dataclass(frozen=True, kw_only=True)
class _Case:
    """A loss and the pair that it is checked on."""

    name: str
    loss: DistillationLoss
    student: Detector
    teacher: Detector
    batch: ImageBatch
    targets: tuple[Targets, ...]

    def outputs(
        self, batch: ImageBatch | None = None, targets: Sequence[Targets] | None = None
    ) -> tuple[DetectorOutput, DetectorOutput]:
        """Return what student and teacher say about a batch, by default the case's own."""
        batch = self.batch if batch is None else batch
        targets = self.targets if targets is None else targets
        student = self.student(batch, targets, want=self.loss.needs.student)
        with torch.no_grad():
            teacher = self.guide(batch, student, want=self.loss.needs.teacher)
        return student, teacher

    def guide(
        self, batch: ImageBatch, student: DetectorOutput, *, want: frozenset[str]
    ) -> DetectorOutput:
        """Return what the teacher says about a batch and what it is given of the student."""
        given = given_to_teacher([self.loss.needs], student)
        output: DetectorOutput = self.teacher(batch, want=want, given=given)
        return output

    def value(
        self, batch: ImageBatch | None = None, targets: Sequence[Targets] | None = None
    ) -> Tensor:
        """Return the sum of the parts for a batch, by default the case's own."""
        batch = self.batch if batch is None else batch
        targets = self.targets if targets is None else targets
        return _sum(self.loss, self.loss(*self.outputs(batch, targets), batch, targets))


def check_loss(
    name: str,
    student: Detector,
    teacher: Detector,
    *,
    options: Mapping[str, Any] | None = None,
    registry: Registry[Any] = LOSSES,
) -> None:
    """Check that a distillation loss keeps its contract on a pair of detectors.

    Args:
        name: A registered name.
        student: Any detector that has the parts in `needs`; a small one is fast. Not changed.
        teacher: Likewise.
        options: Of the loss, typed.
        registry: Where the loss is registered.

    Raises:
        AssertionError: Claims that do not hold; all of them are listed.
        ConfigError: There is no such loss, or an option has no meaning.
        MissingPartError: The loss does not fit this pair.
    """
    torch.manual_seed(0)
    cls, given = registry.get(name), dict(options or {})
    case = _Case(
        name=name,
        loss=cls(student.spec, teacher.spec, **given),
        student=copy.deepcopy(student).eval(),
        teacher=copy.deepcopy(teacher).eval().requires_grad_(requires_grad=False),
        batch=_make_batch(student.spec.image_size),
        targets=_make_targets(student.spec.image_size, len(student.spec.classes)),
    )
    if case.loss.preparation is not None:
        _prepare(case.loss, case.student, case.teacher, case)
    faults = _option_faults(registry.options(name))
    if _gives_scalars(case):
        faults += [claim for claim, holds in _CLAIMS.items() if not holds(case)]
        if case.loss.is_zero_at_equality and not _is_zero_at_equality(case, cls, given):
            faults.append("it is 0 where student and teacher are the same, as it says")
    else:
        # The other claims are about the sum of these.
        faults.append("forward returns at least one part, each a float32 scalar")
    if faults:
        listed = "".join(f"\n  {fault}" for fault in faults)
        raise AssertionError(
            f"The loss {name!r} with the student {student.spec.family!r} and the teacher "
            f"{teacher.spec.family!r} does not keep its contract. These should hold:{listed}"
        )


def _option_faults(defaults: Mapping[str, Any]) -> list[str]:
    return [
        f"the option {option!r} has a default"
        for option, default in defaults.items()
        if default is inspect.Parameter.empty
    ] + [
        f"the option {option!r} has another name than a key of an entry of `distill`"
        for option in sorted(defaults.keys() & ENTRY_KEYS)
    ]


# Claims


def _gives_scalars(case: _Case) -> bool:
    parts = case.loss(*case.outputs(), case.batch, case.targets)
    return bool(parts.keys() - case.loss.figures) and all(map(_is_float_scalar, parts.values()))


def _gives_its_figures(case: _Case) -> bool:
    parts = case.loss(*case.outputs(), case.batch, case.targets)
    return all(
        name in parts and not parts[name].requires_grad and bool(parts[name].isfinite())
        for name in case.loss.figures
    )


def _learns_in_buffers_alone(case: _Case) -> bool:
    loss = _copied(case).loss
    before = [parameter.clone() for parameter in loss.parameters()]
    for step in range(DESCENT_STEPS):
        parts = loss(*case.outputs(), case.batch, case.targets)
        loss.learn(
            {name: float(one.detach()) for name, one in parts.items()},
            progress=step / DESCENT_STEPS,
        )
    resumed = _copied(case).loss
    resumed.load_state_dict(loss.state_dict())
    value, again = (replace(case, loss=one).value() for one in (loss, resumed))
    unchanged = all(map(torch.equal, loss.parameters(), before))
    return unchanged and bool(value.isfinite()) and torch.equal(value, again)


def _gives_scalars_under_autocast(case: _Case) -> bool:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = case.loss(*case.outputs(), case.batch, case.targets)
    value = _sum(case.loss, parts)
    return all(map(_is_float_scalar, parts.values())) and bool(value.isfinite())


def _is_finite_on_random_values(case: _Case) -> bool:
    return _is_finite_with(case, torch.randn_like)


def _is_finite_on_extreme_values(case: _Case) -> bool:
    return _is_finite_with(case, lambda tensor: torch.randn_like(tensor).sign() * EXTREME)


def _is_finite_with(case: _Case, values: Callable[[Tensor], Tensor]) -> bool:
    def change(name: str, tensor: Tensor) -> Tensor:
        return values(tensor).requires_grad_() if name in _PREDICTED_FIELDS else tensor

    student, teacher = (with_tensors(output, change) for output in case.outputs())
    loss = copy.deepcopy(case.loss)
    value = _sum(loss, loss(student, teacher, case.batch, case.targets))
    _backward(value)
    found = [*tensors_in(student), *loss.parameters()]
    gradients = [tensor.grad for tensor in found if tensor.grad is not None]
    return all(bool(tensor.isfinite().all()) for tensor in (value, *gradients))


def _student_and_projectors_get_a_gradient(case: _Case) -> bool:
    trained = _copied(case)
    _backward(trained.value())
    return any(map(_has_gradient, trained.student.parameters())) and all(
        map(_has_gradient, trained.loss.parameters())
    )


def _has_gradient(parameter: Tensor) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def _teacher_gets_no_gradient(case: _Case) -> bool:
    def watch(_name: str, tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_() if tensor.is_floating_point() else tensor

    student, teacher = case.outputs()
    watched = with_tensors(teacher, watch)
    loss = copy.deepcopy(case.loss)
    value = _sum(loss, loss(student, watched, case.batch, case.targets))
    _backward(value)
    return all(tensor.grad is None for tensor in tensors_in(watched))


def _keeps_its_value_on_a_doubled_batch(case: _Case) -> bool:
    return _has_the_same_value(case, [*range(IMAGES), *range(IMAGES)])


def _does_not_see_the_order(case: _Case) -> bool:
    return _has_the_same_value(case, [*range(1, IMAGES), 0])


def _has_the_same_value(case: _Case, order: Sequence[int]) -> bool:
    chosen = torch.tensor(order)
    batch = ImageBatch(
        pixels=case.batch.pixels[chosen],
        sizes=case.batch.sizes[chosen],
        image_sizes=case.batch.image_sizes[chosen],
        image_to_batch=case.batch.image_to_batch[chosen],
        image_ids=tuple(f"{place}" for place in range(len(order))),
    )
    with torch.no_grad():
        other = case.value(batch, [case.targets[index] for index in order])
        return torch.allclose(other, case.value(), rtol=1e-4, atol=1e-6)


def _is_the_same_in_micro_batches(case: _Case) -> bool:
    pieces = [(0, 2), (2, IMAGES)]
    with torch.no_grad():
        whole = _value_and_figures(case, 0, IMAGES)
        counted = []
        for start, stop in pieces:
            with counting((stop - start) / IMAGES) as values:
                _value_and_figures(case, start, stop)
            counted.append(values)
        if counted[0] and not case.loss.counts_over_batch:
            return False
        mean, totals = torch.zeros_like(whole), add_up(counted)
        for start, stop in pieces:
            share = (stop - start) / IMAGES
            with with_totals(share, totals):
                part = _value_and_figures(case, start, stop)
            mean = mean + part * share
    return torch.allclose(mean, whole, rtol=1e-4, atol=1e-6)


def _value_and_figures(case: _Case, start: int, stop: int) -> Tensor:
    """Return the sum of the parts and each figure, of the images start..stop-1."""
    batch, targets = case.batch.part(start, stop), case.targets[start:stop]
    parts = case.loss(*case.outputs(batch, targets), batch, targets)
    figures = [parts[name] for name in sorted(case.loss.figures & parts.keys())]
    return torch.stack([_sum(case.loss, parts), *figures])


def _lives_without_boxes(case: _Case) -> bool:
    value = case.value(targets=[case.targets[-1]] * IMAGES)
    return bool(value.isfinite()) and value.requires_grad


def _reads_what_it_needs(case: _Case) -> bool:
    with torch.no_grad():
        student = case.student(case.batch, case.targets, want=case.student.spec.parts)
        # Labels of the targets are the student's: the teacher has no loss of its own.
        teacher = case.guide(
            case.batch, student, want=case.teacher.spec.parts - {structures.LOSSES}
        )
        outputs = RecordedOutput(student), RecordedOutput(teacher)
        case.loss(*outputs, case.batch, case.targets)
    needs = case.loss.needs
    return outputs[0].read == set(needs.student) and outputs[1].read == set(needs.teacher)


def _falls_in_twenty_steps(case: _Case) -> bool:
    trained = _copied(case)
    parameters = [*trained.student.parameters(), *trained.loss.parameters()]
    optimizer = torch.optim.Adam([p for p in parameters if p.requires_grad], lr=DESCENT_RATE)
    values = []
    for _ in range(DESCENT_STEPS + 1):
        optimizer.zero_grad()
        value = trained.value()
        values.append(float(value.detach()))
        _backward(value)
        optimizer.step()
    return values[-1] < values[0]


def _is_zero_at_equality(case: _Case, cls: Any, options: Mapping[str, Any]) -> bool:
    spec = case.student.spec
    loss = cls(spec, spec, **options)
    if loss.preparation is not None:
        _prepare(loss, case.student, case.student, case)
    needed = loss.needs.student | loss.needs.teacher
    with torch.no_grad():
        output = case.student(case.batch, case.targets, want=needed)
        value = _sum(loss, loss(output, output, case.batch, case.targets))
    return float(value.abs()) <= NEARLY_ZERO


def _prepare(loss: DistillationLoss, student: Detector, teacher: Detector, case: _Case) -> None:
    """Let a loss look at the images of the case, each a batch."""
    if loss.preparation is None:
        return
    batches = [
        (case.batch.part(place, place + 1), case.targets[place : place + 1])
        for place in range(IMAGES)
    ]
    with torch.no_grad():
        own, guide = (
            [
                loss.observe(detector(batch, want=loss.preparation.parts), batch, targets)
                for batch, targets in batches
            ]
            for detector in (student, teacher)
        )
        loss.prepare(own, guide)


_CLAIMS: Mapping[str, Callable[[_Case], bool]] = {
    "the parts are finite float32 scalars under autocast too": _gives_scalars_under_autocast,
    "forward returns all that `figures` names, finite and without gradient": _gives_its_figures,
    "learning from steps changes buffers alone, and keeps it finite": _learns_in_buffers_alone,
    "value and gradient are finite on random outputs": _is_finite_on_random_values,
    "value and gradient are finite on outputs of +-1e4": _is_finite_on_extreme_values,
    "student and every projector get a gradient": _student_and_projectors_get_a_gradient,
    "the teacher gets no gradient": _teacher_gets_no_gradient,
    "a batch that is doubled keeps the value": _keeps_its_value_on_a_doubled_batch,
    "the order of the images does not matter": _does_not_see_the_order,
    "micro-batches give value and figures of the whole batch (see distildet.ops.reduce), and "
    "counts_over_batch says whether it counts": _is_the_same_in_micro_batches,
    "images without boxes give a finite value with a graph": _lives_without_boxes,
    "forward reads the parts in `needs`, all and no others": _reads_what_it_needs,
    f"{DESCENT_STEPS} steps of training reduce it": _falls_in_twenty_steps,
}


def _copied(case: _Case) -> _Case:
    """Return the case with a student and a loss that may be trained."""
    return replace(case, student=copy.deepcopy(case.student), loss=copy.deepcopy(case.loss))


def _backward(value: Tensor) -> None:
    """Compute the gradients; of a value without a graph there are none."""
    if value.requires_grad:
        value.backward()  # type: ignore[no-untyped-call] # torch has no type


def _sum(loss: DistillationLoss, parts: Mapping[str, Tensor]) -> Tensor:
    """Return what is minimised: all that `forward` returned but figures."""
    return torch.stack([one for name, one in parts.items() if name not in loss.figures]).sum()


def _is_float_scalar(value: Tensor) -> bool:
    return value.dtype == torch.float32 and value.ndim == 0


def _make_batch(side: int) -> ImageBatch:
    """Return images of different sizes on one canvas, at random."""
    sizes = torch.tensor([(side, side), (side, side * 3 // 4), (side // 2, side)])
    pixels = torch.zeros(IMAGES, 3, side, side)
    for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
        image[:, :height, :width] = torch.rand(3, height, width)
    return ImageBatch(
        pixels=pixels,
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(IMAGES, 1, 1),
        image_ids=tuple(f"{place}" for place in range(IMAGES)),
    )


def _make_targets(side: int, num_classes: int) -> tuple[Targets, ...]:
    """Return two boxes, one box of a teacher, and none."""
    corners = torch.tensor([[0.1, 0.1, 0.4, 0.45], [0.3, 0.2, 0.7, 0.5]]) * side

    def target(count: int, origin: Origin) -> Targets:
        return Targets(
            boxes=corners[:count],
            labels=torch.arange(count) % num_classes,
            weights=torch.ones(count),
            ignore=torch.zeros(0, 4),
            known_classes=torch.ones(num_classes, dtype=torch.bool),
            origin=origin,
        )

    return target(2, "human"), target(1, "teacher"), target(0, "human")

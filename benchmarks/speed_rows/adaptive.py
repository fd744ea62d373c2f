"""The rows of the loss `adaptive`: against a plain composition of tensor operations."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from distildet.classes import ClassList
from distildet.losses.adaptive import Adaptive
from distildet.specs import DetectorSpec, FeatureLevel
from distildet.structures import DENSE, DensePrediction, DetectorOutput, ImageBatch, Targets
from speed_rows.memory import peak_bytes
from speed_rows.settings import Settings
from speed_rows.timing import Clock, Goal, Row, Work

GOAL = Goal(sign=">=", value=4.0)
ANCHORS = 9
OURS, PLAIN = "our loss", "plain composition"


@dataclass(frozen=True, kw_only=True)
class _Case:
    """Sizes of a batch and of a pyramid that begins with P3."""

    images: int
    side: int
    levels: int
    classes: int

    def __str__(self) -> str:
        return (
            f"{self.images} images of {self.side} px, {self.levels} levels, {self.classes} classes"
        )


def adaptive(settings: Settings) -> list[Row]:
    """Measure forward and backward of the loss, at the size of COCO and of small images."""
    coco = _Case(images=8, side=640, levels=5, classes=80)
    if settings.is_quick:
        coco = _Case(images=2, side=128, levels=4, classes=80)
    small = _Case(images=16, side=128, levels=3, classes=16)
    return [_row(settings, coco, rounds=5, goal=GOAL), _row(settings, small, rounds=50, goal=None)]


def _row(settings: Settings, case: _Case, *, rounds: int, goal: Goal | None) -> Row:
    own, guide = _logits(case, settings.device)
    student, teacher = _output(own), _output(guide)
    batch, targets = _images(case)
    batch = batch.to(settings.device)
    spec = _spec(case)
    loss = Adaptive(spec, spec).to(settings.device)

    def ours() -> None:
        torch.autograd.grad(loss(student, teacher, batch, targets)["classification"], own)

    def plain() -> None:
        torch.autograd.grad(plain_adaptive(own, guide, least=case.images), own)

    works: dict[str, Work] = {PLAIN: plain, OURS: ours}
    clock = Clock(settings.device, works).run(settings.repeats(rounds), warm_ups=1)
    remarks = None
    if settings.device.type == "cpu":
        num_bytes = sum(4 * level.numel() for level in own)
        remarks = {
            f"memory of {name} in logits": peak_bytes(work, settings.folder) / num_bytes
            for name, work in works.items()
        }
    return clock.row("adaptive", str(case), [PLAIN], [OURS], goal=goal, remarks=remarks)


def _logits(case: _Case, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
    """Return those of student and teacher, mostly background as in the middle of training."""
    torch.manual_seed(0)
    sides = [case.side // 2 ** (3 + level) for level in range(case.levels)]
    shapes = [(case.images, ANCHORS * side**2, case.classes) for side in sides]
    own, guide = ([2 * torch.randn(shape) - 4 for shape in shapes] for _ in range(2))
    return [level.to(device).requires_grad_() for level in own], [
        level.to(device) for level in guide
    ]


def plain_adaptive(own: Sequence[Tensor], guide: Sequence[Tensor], least: float) -> Tensor:
    """Return the loss with its default options, as its formula reads.

    Args:
        own: [b n k] each, the student's logits of all levels.
        guide: Of the teacher.
        least: Of the normaliser.
    """
    value = mass = own[0].new_zeros(())
    for logits, teacher_logits in zip(own, guide, strict=True):
        q, rest = teacher_logits.sigmoid(), (-teacher_logits).sigmoid()
        log_q, log_rest = F.logsigmoid(teacher_logits), F.logsigmoid(-teacher_logits)
        entropy = -(q * log_q + rest * log_rest)
        divergence = q * (log_q - F.logsigmoid(logits)) + rest * (log_rest - F.logsigmoid(-logits))
        weight = -torch.expm1(-(divergence + entropy))
        value = value + (weight.pow(2) * divergence).sum()
        mass = mass + teacher_logits.sigmoid().pow(1.8).sum()
    return value / mass.clamp(min=least)


def _spec(case: _Case) -> DetectorSpec:
    return DetectorSpec(
        family="retinanet",
        classes=ClassList(tuple(f"class {label}" for label in range(case.classes))),
        levels=tuple(
            FeatureLevel(name=f"P{3 + level}", channels=256, stride=2 ** (3 + level))
            for level in range(case.levels)
        ),
        head="dense",
        parts=frozenset({DENSE}),
        image_size=case.side,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="none",
    )


def _output(logits: Sequence[Tensor]) -> DetectorOutput:
    """Return logits as a detector does; all priors stand on the image."""
    return DetectorOutput(
        dense=DensePrediction(
            logits=tuple(logits),
            box_codes=tuple(level.new_zeros(*level.shape[:2], 4) for level in logits),
            priors=tuple(level.new_zeros(level.shape[1], 4) for level in logits),
            activation="sigmoid",
        )
    )


def _images(case: _Case) -> tuple[ImageBatch, list[Targets]]:
    """Return black images without a box."""
    sizes = torch.tensor([(case.side, case.side)] * case.images)
    batch = ImageBatch(
        pixels=torch.zeros(case.images, 3, case.side, case.side),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(case.images, 1, 1),
        image_ids=tuple(map(str, range(case.images))),
    )
    target = Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0),
        ignore=torch.zeros(0, 4),
        known_classes=torch.ones(case.classes, dtype=torch.bool),
        origin="human",
    )
    return batch, [target] * case.images

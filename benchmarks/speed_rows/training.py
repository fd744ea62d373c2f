"""Rows of training: steps of our loop against steps written down plainly."""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from distildet.data.workers import Batch
from distildet.detectors.base import Detector
from distildet.losses.adaptive import Adaptive
from distildet.losses.base import DistillationLoss, Needs, given_to_teacher
from distildet.losses.feature_imitation import FeatureImitation
from distildet.losses.global_knowledge import GlobalKnowledge
from distildet.losses.hands_on_guidance import HandsOnGuidance
from distildet.specs import DetectorSpec
from distildet.structures import (
    FEATURES_NECK,
    LOSSES,
    DetectorOutput,
    ImageBatch,
    Targets,
)
from distildet.training.interruption import Interruption
from distildet.training.loop import Trainer
from distildet.training.settings import TermSettings, TrainSettings
from distildet.training.task import Task
from distildet.training.terms import Term
from speed_rows.memory import peak_bytes
from speed_rows.models import FAMILIES, Inputs, make_inputs, make_pair
from speed_rows.settings import Settings
from speed_rows.timing import Clock, Goal, Row, Work

MakeLoss: TypeAlias = Callable[[DetectorSpec, DetectorSpec], DistillationLoss]

# So small that the weights, and with them the work of a step, stay as they are.
RATE = 1e-7
WEIGHT_DECAY, CLIP, EMA = 0.02, 10.0, 0.998
STEPS = 1_000_000
SUPERVISED_GOAL = Goal(sign="<=", value=1.05)
DISTILL_GOALS = {
    "no loss": Goal(sign=">=", value=0.97),
    "adaptive": Goal(sign=">=", value=0.95),
    "global-knowledge": Goal(sign=">=", value=0.9),
    "hands-on-guidance": Goal(sign=">=", value=0.9),
    "hands-on-guidance and towers": Goal(sign=">=", value=0.9),
}


class LoopStep:
    """One step of our loop at each call: a run of a stage whose batches end after one.

    Args:
        task: What is trained.
        source: Gives the batches, without end.
        folder: For the stage.
        device: Where to compute.
        ema: Decay of the averaged weights; 0 for none.
    """

    def __init__(
        self,
        task: Task,
        source: Iterator[Batch],
        folder: Path,
        device: torch.device,
        *,
        ema: float = 0.0,
    ) -> None:
        self.trainer = Trainer(
            task,
            train_settings(ema=ema),
            folder,
            batches=lambda start, stop: itertools.islice(source, 1),  # noqa: ARG005 - the loop's contract
            evaluate=None,
            device=device,
            interruption=Interruption(),
            progress=_drop,
        )

    def __call__(self) -> None:
        """Take a step."""
        self.trainer.run()

    def forget(self) -> None:
        """Delete the records, which a run would read and shorten first."""
        (self.trainer.folder / "metrics.jsonl").unlink(missing_ok=True)


def train_settings(*, ema: float = 0.0, terms: tuple[TermSettings, ...] = ()) -> TrainSettings:
    """Return settings with which a step changes next to nothing.

    Args:
        ema: Decay of the averaged weights; 0 for none.
        terms: Distillation losses.
    """
    return TrainSettings(
        seed=0,
        stage="speed",
        steps=STEPS,
        lr=RATE,
        weight_decay=WEIGHT_DECAY,
        warmup=0.0,
        decay="constant",
        ema=ema,
        clip=CLIP,
        checkpoint_every=STEPS,
        terms=terms,
    )


def _drop(done: int, total: int, values: Mapping[str, float]) -> None:
    pass


def plain_step(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Work:
    """Return a training step of a stock model, as torchvision's users write it."""
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def step() -> None:
        losses = model(images, targets)
        optimizer.zero_grad(set_to_none=True)
        sum(losses.values()).backward()
        nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()

    return step


def supervised_step(settings: Settings) -> list[Row]:
    """Measure a supervised step of every family against the stock model's step."""
    return [row for family in FAMILIES for row in _supervised_rows(family, settings)]


def _supervised_rows(family: str, settings: Settings) -> list[Row]:
    pair = make_pair(family, backbone="resnet18", neck_channels=settings.neck_channels)
    # A step of Faster R-CNN takes several times as long: half a batch, and time for more rounds.
    count = len(settings.sizes) // 2 if family == "faster_rcnn" else len(settings.sizes)
    inputs = make_inputs(settings.sizes[:count])
    on_device = inputs.to(settings.device)
    plain, averaged = (
        _loop_step(Task(copy.deepcopy(pair.ours)), inputs, settings, f"{family}-{ema}", ema=ema)
        for ema in (0.0, EMA)
    )
    stock = plain_step(
        pair.stock.to(settings.device),
        on_device.stock_images(),
        on_device.stock_targets(has_background=pair.has_background),
    )
    works: dict[str, Work] = {"our step": plain, "our step with EMA": averaged, "stock step": stock}
    clock = Clock(settings.device, works, prepare=forgetting(plain, averaged))
    clock.run(settings.repeats(20))
    case = f"{family}, ResNet-18, {count} images"
    return [
        clock.row("supervised-step", case, [ours], ["stock step"], goal=goal)
        for ours, goal in (
            ("our step", SUPERVISED_GOAL),
            ("our step with EMA", None),
        )
    ]


class Nothing(DistillationLoss):
    """Asks for the necks of both and is 0: what is left is the cost of distilling at all."""

    needs = Needs(student=frozenset({FEATURES_NECK}), teacher=frozenset({FEATURES_NECK}))

    def forward(
        self,
        student: DetectorOutput,  # noqa: ARG002 - the contract of a loss
        teacher: DetectorOutput,  # noqa: ARG002
        batch: ImageBatch,
        targets: Sequence[Targets],  # noqa: ARG002
    ) -> dict[str, Tensor]:
        """Return "nothing"."""
        return {"nothing": batch.pixels.new_zeros(())}


def distill_step(settings: Settings) -> list[Row]:
    """Measure distillation steps against a student's step and a teacher's forward pass."""
    losses: dict[str, MakeLoss] = {
        "no loss": Nothing,
        "feature-imitation": FeatureImitation,
        "adaptive": Adaptive,
        "global-knowledge": GlobalKnowledge,
        "hands-on-guidance": HandsOnGuidance,
        "hands-on-guidance and towers": partial(
            HandsOnGuidance, groups=("backbone", "neck", "head")
        ),
    }
    regions: dict[str, MakeLoss] = {
        "adaptive": Adaptive,
        "global-knowledge": GlobalKnowledge,
        "hands-on-guidance": HandsOnGuidance,
    }
    return [
        *_distill_rows("retinanet", losses, settings, len(settings.sizes), settings.repeats(15)),
        *_distill_rows(
            "faster_rcnn", regions, settings, len(settings.sizes) // 2, settings.repeats(10)
        ),
    ]


def _distill_rows(
    family: str,
    losses: Mapping[str, MakeLoss],
    settings: Settings,
    images: int,
    repeats: int,
) -> list[Row]:
    """Measure steps with each loss beside their parts: a step without, and a teacher's pass."""
    student = make_pair(family, backbone="resnet18", neck_channels=settings.neck_channels).ours
    teacher = make_pair(family, backbone="resnet50", neck_channels=2 * settings.neck_channels).ours
    guide = teacher.requires_grad_(requires_grad=False).eval()
    inputs = make_inputs(settings.sizes[:images])
    folder = f"distill-{family}"
    steps = {
        "student step": _loop_step(Task(copy.deepcopy(student)), inputs, settings, folder),
        **{
            f"step with {name}": _loop_step(
                _distilling(copy.deepcopy(student), guide, name, loss, inputs),
                inputs,
                settings,
                f"{folder}-{name}",
            )
            for name, loss in losses.items()
        },
    }
    needs = {name: loss(student.spec, guide.spec).needs for name, loss in losses.items()}
    passes = {
        teacher_pass(one): _teacher_forward(student, guide, one, inputs.to(settings.device))
        for one in needs.values()
    }
    works: dict[str, Work] = {**steps, **passes}
    clock = Clock(settings.device, works, prepare=forgetting(*steps.values()))
    clock.run(repeats)
    case = f"{family}, ResNet-18 from ResNet-50, {images} images"
    is_cpu = settings.device.type == "cpu"
    forgetting(*steps.values())()
    memory = {
        name: peak_bytes(step, settings.folder) if is_cpu else 0 for name, step in steps.items()
    }
    return [
        clock.row(
            "distill-step",
            case,
            ["student step", teacher_pass(needs[name])],
            [f"step with {name}"],
            goal=DISTILL_GOALS.get(name),
            remarks={
                f"memory of a step with {name} in student steps": memory[f"step with {name}"]
                / memory["student step"]
            }
            if is_cpu
            else None,
        )
        for name in losses
    ]


def teacher_pass(needs: Needs) -> str:
    """Return what a teacher's forward pass for a loss is called in the table.

    Args:
        needs: Of the loss.
    """
    return f"teacher forward ({', '.join(sorted(needs.teacher))})"


def _teacher_forward(student: Detector, guide: Detector, needs: Needs, inputs: Inputs) -> Work:
    with torch.no_grad():
        # With losses, as in a step: they draw the regions.
        output = student.to(inputs.batch.pixels.device).train()(
            inputs.batch, inputs.targets, want=needs.student | {LOSSES}
        )
    given = given_to_teacher([needs], output)

    @torch.no_grad()
    def forward() -> None:
        guide(inputs.batch, want=needs.teacher, given=given)

    return forward


def _distilling(
    student: Detector,
    teacher: Detector,
    name: str,
    loss: MakeLoss,
    inputs: Inputs,
) -> Task:
    made = loss(student.spec, teacher.spec)
    if made.preparation is not None:
        _show(made, student, teacher, inputs)
    term = Term(name, made, TermSettings(loss=name, weight=1.0), steps=STEPS)
    return Task(student, teacher, [term])


@torch.no_grad()
def _show(loss: DistillationLoss, student: Detector, teacher: Detector, inputs: Inputs) -> None:
    """Let a loss look at the images of the batch, which it does from time to time and not here."""
    parts = frozenset() if loss.preparation is None else loss.preparation.parts
    own, guide = (
        loss.observe(one.eval()(inputs.batch, want=parts), inputs.batch, inputs.targets)
        for one in (student, teacher)
    )
    loss.prepare([own], [guide])


def _loop_step(
    task: Task, inputs: Inputs, settings: Settings, name: str, *, ema: float = 0.0
) -> LoopStep:
    source = itertools.repeat((inputs.batch, inputs.targets))
    return LoopStep(task, source, settings.folder / name, settings.device, ema=ema)


def forgetting(*steps: LoopStep) -> Work:
    """Return what makes steps forget; see `LoopStep.forget`."""

    def forget() -> None:
        for step in steps:
            step.forget()

    return forget

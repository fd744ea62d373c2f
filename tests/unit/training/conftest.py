"""A student of 89 000 weights, batches that are a function of the step, and trainers of these."""

import signal
from dataclasses import replace

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.losses.feature_imitation import FeatureImitation
from distildet.losses.global_knowledge import GlobalKnowledge
from distildet.ops.processes import num_processes, rank
from distildet.structures import ImageBatch, Targets
from distildet.training.interruption import Interruption
from distildet.training.loop import Trainer
from distildet.training.preparing import ObservedImages
from distildet.training.settings import TermSettings, TrainSettings
from distildet.training.task import Task
from distildet.training.terms import Term

SIDE = 32


def make_student(names="ab"):
    torch.manual_seed(0)
    return RetinaNet(
        ClassList(tuple(names)),
        backbone="test_efficientnet",
        image_size=SIDE,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        anchor_scale=2.0,
    )


def make_teacher():
    """More classes, another pyramid and more channels than the student."""
    torch.manual_seed(1)
    return RetinaNet(
        ClassList(("a", "b", "c")),
        backbone="test_efficientnet",
        image_size=SIDE,
        backbone_levels=("C2", "C3", "C4"),
        extra_levels=0,
        neck_channels=12,
        head_depth=1,
        anchor_scale=2.0,
    )


def make_distilling_task(**settings):
    """Student, teacher and feature imitation, which begins with equal random weights each time."""
    student, teacher = make_student(), make_teacher()
    term = TermSettings(loss="feature-imitation", **settings)
    torch.manual_seed(2)
    loss = FeatureImitation(student.spec, teacher.spec, **term.options)
    return Task(student, teacher, [Term(term.loss, loss, term, steps=40)])


def make_preparing_task(*, names="ab", **options):
    """Student, teacher and global knowledge, which begins with equal random weights each time."""
    student, teacher = make_student(names), make_teacher()
    term = TermSettings(loss="global-knowledge")
    torch.manual_seed(2)
    loss = GlobalKnowledge(student.spec, teacher.spec, **options)
    return Task(student, teacher, [Term(term.loss, loss, term, steps=6)])


def make_observed(
    given_batches=None, *, steps_per_pass=2.0, progress=lambda done, total: None, remark=print
):
    """Three batches of four images, to be looked at beforehand: nine objects, three of class b."""

    def batches(numbers):
        return (make_batch(100 + number) for number in numbers)

    return ObservedImages(
        batches=given_batches or batches,
        num_batches=3,
        steps_per_pass=steps_per_pass,
        progress=progress,
        remark=remark,
    )


def make_batch(step, *, images=4, without_box=(-1,)):
    """Each image has one box, but for some, of which the last is one."""
    generator = torch.Generator().manual_seed(step)
    sizes = torch.full((images, 2), SIDE)
    batch = ImageBatch(
        pixels=torch.rand(images, 3, SIDE, SIDE, generator=generator),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(images, 1, 1),
        image_ids=tuple(f"{step}-{i}" for i in range(images)),
    )
    corners = torch.rand(images, 2, generator=generator) * SIDE / 2
    boxes = torch.cat([corners, corners + SIDE / 2], dim=1)[:, None]  # [images, 1, 4]
    target = Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0),
        ignore=torch.zeros(0, 4),
        known_classes=torch.ones(2, dtype=torch.bool),
        origin="human",
    )
    one = replace(target, labels=torch.tensor([step % 2]), weights=torch.ones(1))
    targets = [replace(one, boxes=box) for box in boxes]
    for place in without_box:
        targets[place] = target
    return batch, tuple(targets)


def share_of_batch(step, **options):
    """The share of this process of a batch."""
    batch, targets = make_batch(step, **options)
    own = slice(rank(), None, num_processes())
    share = replace(
        batch,
        pixels=batch.pixels[own],
        sizes=batch.sizes[own],
        image_sizes=batch.image_sizes[own],
        image_to_batch=batch.image_to_batch[own],
        image_ids=batch.image_ids[own],
    )
    return share, targets[own]


def batches(start, stop):
    return (make_batch(step) for step in range(start, stop))


def spoiled_batches(steps, value=float("nan")):
    """The batches, with one pixel of the given steps replaced."""

    def spoil(step):
        batch, targets = make_batch(step)
        batch.pixels[0, 0, 0, 0] = value if step in steps else batch.pixels[0, 0, 0, 0]
        return batch, targets

    return lambda start, stop: (spoil(step) for step in range(start, stop))


def make_trainer(
    folder,
    *,
    given_batches=batches,
    evaluate=None,
    stop_after=None,
    task=None,
    observed=None,
    **settings,
):
    """Return a trainer of six steps that is asked to stop after some step, or never."""
    interruption = Interruption()

    def progress(done, total, values):
        if done == stop_after:
            interruption.request(signal.SIGTERM, None)

    return Trainer(
        task or Task(make_student()),
        TrainSettings(**{"seed": 0, "stage": "01-train", "steps": 6, "lr": 0.01, **settings}),
        folder,
        batches=given_batches,
        evaluate=evaluate,
        device=torch.device("cpu"),
        interruption=interruption,
        progress=progress,
        observed=observed,
    )


@pytest.fixture
def student():
    return make_student()


@pytest.fixture
def batch_of():
    return make_batch


@pytest.fixture
def share_of():
    return share_of_batch


@pytest.fixture
def spoiled():
    return spoiled_batches


@pytest.fixture
def trainer(tmp_path):
    """Make a trainer in the folder "stage", or another one."""

    def make(name="stage", **options):
        return make_trainer(tmp_path / name, **options)

    return make


@pytest.fixture
def student_of():
    return make_student


@pytest.fixture
def distilling():
    return make_distilling_task


@pytest.fixture
def preparing():
    return make_preparing_task


@pytest.fixture
def observed():
    return make_observed


@pytest.fixture
def checkpoint_files():
    """The content of each file of a checkpoint with tensors."""

    def read(path):
        return {file.name: file.read_bytes() for file in sorted(path.glob("*.safetensors"))}

    return read

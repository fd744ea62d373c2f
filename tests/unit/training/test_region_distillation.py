"""Two-stage detectors trained with the loss `adaptive`, step after step."""

import json

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.losses.adaptive import Adaptive
from distildet.training.settings import TermSettings
from distildet.training.task import Task
from distildet.training.terms import Term


def make_detector(names, seed, **options):
    torch.manual_seed(seed)
    return FasterRCNN(
        ClassList(names),
        backbone="test_efficientnet",
        image_size=32,
        extra_levels=0,
        anchor_scale=2.0,
        train_proposals=60,
        region_samples=24,
        **options,
    )


@pytest.fixture
def task():
    """The teacher has another pyramid, other widths and a class more than the student."""
    student = make_detector(
        ("a", "b"), 0, backbone_levels=("C3", "C4"), neck_channels=8, region_channels=16
    )
    teacher = make_detector(
        ("b", "other", "a"), 1, backbone_levels=("C2", "C3"), neck_channels=12, region_channels=24
    )
    # A teacher without training is nearly undecided about everything.
    teacher.region_head.predictor.cls_score.weight.data *= 30
    term = TermSettings(loss="adaptive", weight=3.0)
    loss = Adaptive(student.spec, teacher.spec)
    return Task(student, teacher, [Term("adaptive", loss, term, steps=12)])


@pytest.fixture
def values(trainer, batch_of, tmp_path):
    """Train on one batch, again and again, and return the logged values of the loss."""

    def run(task, **settings):
        def same_batch(start, stop):
            return (batch_of(0) for _ in range(start, stop))

        trainer(
            task=task, given_batches=same_batch, steps=12, batch_norm="frozen", **settings
        ).run()
        lines = (tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [r["adaptive.classification"] for r in records if "loss" in r]

    return run


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}])
def test_the_student_comes_nearer_to_what_the_teacher_says_of_its_regions(task, values, settings):
    found = values(task, **settings)

    assert len(found) == 12
    assert sum(found[-3:]) < 0.8 * sum(found[:3])


def test_the_teacher_stays_as_it_was(task, values):
    before = {name: value.clone() for name, value in task.teacher.state_dict().items()}

    values(task)

    torch.testing.assert_close(task.teacher.state_dict(), before, rtol=0, atol=0)

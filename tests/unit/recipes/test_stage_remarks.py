from pathlib import Path

import pytest
import torch
from torch import nn

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.losses.adaptive import Adaptive
from distildet.recipes.stage_remarks import batch_norm_remarks, left_out_remarks, weight_remarks
from distildet.training.loop import TrainResult
from distildet.training.settings import TermSettings
from distildet.training.terms import Term

FOLDER = Path("runs/a/seed-0/01-train")


@pytest.fixture
def student():
    torch.manual_seed(0)
    return RetinaNet(
        ClassList(("car",)),
        backbone="test_efficientnet",
        image_size=32,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        head_norm="none",
    )


def result(student, **left_out):
    numbers = {"rejected": 0, "overflows": 0, **left_out}
    return TrainResult(detector=student, seconds=1.0, warnings=(), **numbers)


def test_steps_that_were_left_out_are_counted_with_the_place_of_their_batches(student):
    assert left_out_remarks(result(student, rejected=13), FOLDER, 20) == [
        "13 of 20 steps were left out, since their loss or gradient was not finite. Look at their "
        "images in runs/a/seed-0/01-train/rejected, or lower the learning rate."
    ]


def test_overflows_of_fp16_are_counted_apart(student):
    assert left_out_remarks(result(student, overflows=2), FOLDER, 20) == [
        "2 of 20 steps were left out while the loss scale of fp16 was too large. A few are usual."
    ]


def test_a_stage_that_took_every_step_says_nothing(student):
    assert left_out_remarks(result(student), FOLDER, 20) == []


@pytest.mark.parametrize(
    ("batch_norm", "expected"),
    [
        (
            "train",
            [
                "BatchNorm sees the 4 images of each process alone, not 8 as in one process. With "
                "batch_norm: frozen in the stage the result is that of one process but for "
                "rounding; see docs/distributed.md."
            ],
        ),
        ("frozen", []),
    ],
)
def test_batch_norm_that_learns_from_a_share_is_told(student, in_processes, batch_norm, expected):
    found = in_processes(lambda: batch_norm_remarks(student, batch_norm, 8))

    assert found == [expected, expected]


def test_one_process_alone_hears_nothing_of_batch_norm(student):
    assert batch_norm_remarks(student, "train", 8) == []


def automatic(student, value):
    term = Term(
        "adaptive",
        Adaptive(student.spec, student.spec),
        TermSettings(loss="adaptive", weight="auto"),
        steps=20,
    )
    term.auto_weight.value.fill_(value)
    return term


@pytest.mark.parametrize("bound", [1e-3, 1e3])
def test_an_automatic_weight_at_its_bound_is_told(student, bound):
    lines = weight_remarks(nn.ModuleList([automatic(student, bound)]))

    assert lines == [
        f"adaptive: `weight: auto` is at its bound of {bound:g}, so the loss does not have the "
        "share that was asked for. Look at its values in metrics.jsonl, and choose another share, "
        "or a weight."
    ]


def test_an_automatic_weight_within_its_bounds_is_no_remark(student):
    assert weight_remarks(nn.ModuleList([automatic(student, 2.5)])) == []

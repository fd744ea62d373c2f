"""Every registered loss keeps the contract, and has its page."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.losses.base import LOSSES
from distildet.testing import check_loss

SIDE = 64
DENSE_HEAD = {"head_depth": 1, "head_norm": "group"}
REGION_HEAD = {"region_channels": 16, "region_samples": 16, "test_proposals": 30}
TEACHERS = {"retinanet": DENSE_HEAD, "fcos": DENSE_HEAD, "faster_rcnn": REGION_HEAD}
SLOTS = ("Formula:", "Needs:", "Args:", "Shape:", "Returns:", "Gradient:", "Source:")
HEADINGS = (
    "**Idea.**",
    "**Needs.**",
    "**When not.**",
    "## Options",
    "## Differences",
    "## Numbers",
)


def make_detector(family, *, classes, levels, channels, extra_levels=0, **options):
    torch.manual_seed(0)
    return build_detector(
        family,
        classes=ClassList(classes),
        backbone="test_efficientnet",
        image_size=SIDE,
        backbone_levels=levels,
        extra_levels=extra_levels,
        neck_channels=channels,
        **options,
    )


@pytest.fixture
def student():
    return make_detector(
        "retinanet", classes=("car",), levels=("C3", "C4"), channels=8, **DENSE_HEAD
    )


@pytest.mark.parametrize("name", LOSSES.names())
@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("extra_levels", [0, 1])
def test_a_loss_keeps_its_contract(name, family, extra_levels, student):
    # More classes, other levels, more channels, and a pyramid that ends elsewhere.
    teacher = make_detector(
        family,
        classes=("bus", "car"),
        levels=("C2", "C3", "C4"),
        channels=16,
        extra_levels=extra_levels,
        **TEACHERS[family],
    )

    check_loss(name, student, teacher)


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss_has_every_slot_of_its_docstring(name):
    text = LOSSES.get(name).__doc__

    assert [slot for slot in SLOTS if slot not in text] == []


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss_has_its_page_with_every_slot_and_option(name, project):
    page = (project / "docs" / "methods" / f"{name}.md").read_text()

    assert [heading for heading in HEADINGS if heading not in page] == []
    assert [option for option in LOSSES.options(name) if f"`{option}`" not in page] == []

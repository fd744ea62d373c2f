"""Every registered loss keeps the contract, and has its page."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.losses.adaptive import Adaptive
from distildet.losses.base import LOSSES
from distildet.registry import Registry
from distildet.testing import check_loss

SIDE = 64
DENSE_HEAD = {"head_depth": 1, "head_norm": "group"}
REGION_HEAD = {"region_channels": 16, "region_samples": 16, "test_proposals": 30}
TEACHERS = {"retinanet": DENSE_HEAD, "fcos": DENSE_HEAD, "faster_rcnn": REGION_HEAD}
# What a loss compares decides which pairs it is checked on.
OF_FEATURES = [
    "feature-imitation",
    "foreground-imitation",
    "global-knowledge",
    "hands-on-guidance",
]
OF_PRIORS = ["adaptive"]
SLOTS = ("Formula:", "Needs:", "Args:", "Shape:", "Returns:", "Gradient:", "Source:")
HEADINGS = (
    "**Idea.**",
    "**Needs.**",
    "**When not.**",
    "## Options",
    "## Differences",
    "## Numbers",
)


def make_detector(family, *, classes, levels, channels, extra_levels=0, seed=1, **options):
    torch.manual_seed(seed)
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


def make_student(family):
    # Of other weights than its teachers, or a loss of its backbone would begin at 0.
    return make_detector(
        family, classes=("car",), levels=("C3", "C4"), channels=8, seed=0, **DENSE_HEAD
    )


def test_every_loss_is_in_one_of_the_lists():
    assert sorted(OF_FEATURES + OF_PRIORS) == list(LOSSES.names())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in OF_FEATURES),
        ("foreground-imitation", {"foreground": 0.0}),
        ("foreground-imitation", {"background": 0.0}),
        ("global-knowledge", {"variant": "paper"}),
        ("global-knowledge", {"terms": ("global",)}),
        ("hands-on-guidance", {"measure": "squared", "micro": False, "macro": False}),
        ("hands-on-guidance", {"groups": ("neck",), "release": 0.1}),
        ("hands-on-guidance", {"correspondence": {"P3": "P4", "C4": "C4"}}),
    ],
)
@pytest.mark.parametrize("family", TEACHERS)
@pytest.mark.parametrize("extra_levels", [0, 1])
def test_a_loss_of_features_keeps_its_contract(name, options, family, extra_levels):
    # More classes, other levels, more channels, and a pyramid that ends elsewhere.
    teacher = make_detector(
        family,
        classes=("bus", "car"),
        levels=("C2", "C3", "C4"),
        channels=16,
        extra_levels=extra_levels,
        **TEACHERS[family],
    )

    check_loss(name, make_student("retinanet"), teacher, options=options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in OF_PRIORS),
        ("adaptive", {"form": "official"}),
        ("adaptive", {"priors": "positive"}),
        ("adaptive", {"gamma": 0.0, "normaliser": "positives"}),
        ("adaptive", {"form": "focal"}),
        ("global-knowledge", {"variant": "paper"}),
        ("global-knowledge", {"variant": "paper", "terms": ("response",)}),
    ],
)
@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_a_loss_of_priors_keeps_its_contract(name, options, family):
    # More classes and channels; the priors must be the same.
    teacher = make_detector(
        family, classes=("bus", "car"), levels=("C3", "C4"), channels=16, **DENSE_HEAD
    )

    check_loss(name, make_student(family), teacher, options=options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adaptive", {}),
        ("adaptive", {"form": "official"}),
        ("global-knowledge", {}),
        ("global-knowledge", {"variant": "paper"}),
        ("global-knowledge", {"terms": ("global", "response")}),
    ],
)
def test_a_loss_of_regions_keeps_its_contract(name, options):
    # More classes and channels, another pyramid; the teacher judges the student's regions.
    student = make_detector(
        "faster_rcnn", classes=("car",), levels=("C3", "C4"), channels=8, **REGION_HEAD
    )
    teacher = make_detector(
        "faster_rcnn", classes=("bus", "car"), levels=("C2", "C3"), channels=16, **REGION_HEAD
    )

    check_loss(name, student, teacher, options=options)


def test_adaptive_is_held_to_be_zero_at_equality_in_the_form_paper_alone():
    class NeverZero(Adaptive):
        def forward(self, *arguments):
            return {name: value + 1 for name, value in super().forward(*arguments).items()}

    registry = Registry("distillation loss")
    registry.register("tried")(NeverZero)
    teacher = make_detector(
        "retinanet", classes=("car",), levels=("C3", "C4"), channels=16, **DENSE_HEAD
    )
    pair = make_student("retinanet"), teacher

    with pytest.raises(AssertionError, match="it is 0 where student and teacher are the same"):
        check_loss("tried", *pair, registry=registry)
    check_loss("tried", *pair, options={"form": "official"}, registry=registry)


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss_has_every_slot_of_its_docstring(name):
    text = LOSSES.get(name).__doc__

    assert [slot for slot in SLOTS if slot not in text] == []


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss_has_its_page_with_every_slot_and_option(name, project):
    page = (project / "docs" / "methods" / f"{name}.md").read_text()

    assert [heading for heading in HEADINGS if heading not in page] == []
    assert [option for option in LOSSES.options(name) if f"`{option}`" not in page] == []

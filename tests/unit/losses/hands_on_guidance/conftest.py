"""Options, specs, batches and targets of the loss `hands-on-guidance`."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.losses.hands_on_guidance.options import HandsOnGuidanceOptions
from distildet.specs import DetectorSpec, FeatureLevel, part_of_level
from distildet.structures import DetectorOutput, Targets

DEFAULTS = {
    "groups": None,
    "correspondence": "affinity",
    "stride_penalty": None,
    "images": 512,
    "measure": "hands-on",
    "direction": None,
    "release": 0.0,
    "micro": True,
    "background": None,
    "attention": None,
    "hardness": None,
    "macro": True,
    "macro_temperature": None,
    "backbone_weight": None,
    "neck_weight": None,
    "head_weight": None,
}


def make_options(**changes):
    return HandsOnGuidanceOptions(**{**DEFAULTS, **changes})


def make_spec(channels_by_level, *, family="tiny"):
    """A detector with the parts of its levels, such as C3, P3 and cls.P3.

    Its neck and head look for objects of two strides.
    """
    return DetectorSpec(
        family=family,
        classes=ClassList(("a", "b")),
        levels=tuple(
            FeatureLevel(
                name=name,
                channels=channels,
                stride=2 ** int(name[-1]),
                object_side=None if name.startswith("C") else 2.0 * 2 ** int(name[-1]),
            )
            for name, channels in channels_by_level.items()
        ),
        head="dense",
        parts=frozenset(map(part_of_level, channels_by_level)),
        image_size=64,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="none",
    )


def make_target(*boxes, ignore=(), origin="human"):
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        weights=torch.ones(len(boxes)),
        ignore=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
        known_classes=torch.ones(2, dtype=torch.bool),
        origin=origin,
    )


def make_output(spec, images, canvas, seed):
    """Random maps of every level of a spec."""
    generator = torch.Generator().manual_seed(seed)
    return DetectorOutput(
        features={
            level.name: torch.randn(
                images,
                level.channels,
                *(-(-side // level.stride) for side in canvas),
                generator=generator,
            )
            for level in spec.levels
        }
    )


@pytest.fixture
def options_of():
    return make_options


@pytest.fixture
def spec_of():
    return make_spec


@pytest.fixture
def target_of():
    return make_target


@pytest.fixture
def random_output():
    return make_output

"""Options, specs, batches, targets and outputs of the loss `hands-on-guidance`."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.losses.hands_on_guidance.options import HandsOnGuidanceOptions
from distildet.specs import DetectorSpec, FeatureLevel, part_of_level
from distildet.structures import DetectorOutput, Targets

CANVAS = (64, 104)  # which is no multiple of 16 and 32: cells of P4 and P5 do not match
SIZES = ((64, 104), (40, 60), (64, 72))
STUDENT = {"C3": 3, "C4": 5, "P3": 4, "P4": 4, "box.P3": 3, "box.P4": 3, "cls.P3": 3, "cls.P4": 3}
TEACHER = {
    **dict.fromkeys(("P3", "P4", "P5"), 6),
    **dict.fromkeys(("box.P3", "box.P4", "box.P5", "cls.P3", "cls.P4", "cls.P5"), 5),
    "C2": 4,
    "C3": 3,
    "C4": 6,
}
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


def let_prepare(loss, outputs, batch, targets):
    """Let a loss look at the images in two batches."""
    seen = []
    for output in outputs:
        parts = []
        for start, stop in ((0, 2), (2, len(batch))):
            features = {name: one[start:stop] for name, one in output.features.items()}
            given = DetectorOutput(features=features), batch.part(start, stop)
            parts.append(loss.observe(*given, targets[start:stop]))
        seen.append(parts)
    return loss.prepare(*seen)


def take_parts(loss, values):
    return {name: one for name, one in values.items() if name not in loss.figures}


def add_parts(loss, *given):
    return sum(take_parts(loss, loss(*given)).values())


def name_pairs(loss):
    return {
        one.level.name: guide.name
        for one, guide in zip(loss.levels, loss._guide_levels(), strict=True)
    }


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


@pytest.fixture
def batch(batch_of):
    return batch_of(SIZES, CANVAS)


@pytest.fixture
def targets(target_of):
    """Boxes that overlap, on both levels by size; beside a region to ignore; and no box."""
    return [
        target_of((1, 1, 30, 40), (20, 10, 26, 17), (60, 3, 64, 5), (50, 20, 95, 60)),
        target_of((4, 4, 7, 9), (8, 8, 30, 34), ignore=[(0, 0, 40, 16)]),
        target_of(),
    ]


@pytest.fixture
def pair(spec_of):
    return spec_of(STUDENT, family="own"), spec_of(TEACHER, family="guide")


@pytest.fixture
def outputs(pair, random_output):
    """Maps of both; those of the teacher have channels of other means and deviations."""
    own, guide = (random_output(spec, len(SIZES), CANVAS, seed) for seed, spec in enumerate(pair))
    features = {}
    for name, feature in guide.features.items():
        channels = torch.arange(feature.shape[1])[:, None, None]
        features[name] = feature * (0.2 + channels) + 3 * channels
        features[name][:, 1] = 7.0  # which never varies
    return own, DetectorOutput(features=features)


@pytest.fixture
def prepare():
    return let_prepare


@pytest.fixture
def parts_of():
    return take_parts


@pytest.fixture
def total():
    return add_parts


@pytest.fixture
def pairs_of():
    return name_pairs


@pytest.fixture
def sizes():
    """Of the images of `batch`, (height, width)."""
    return SIZES


@pytest.fixture
def canvas():
    return CANVAS

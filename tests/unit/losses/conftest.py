"""Specs, batches and outputs of one pyramid, without any detector."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.specs import DetectorSpec, FeatureLevel
from distildet.structures import DetectorOutput, ImageBatch


def make_spec(channels_by_level, *, parts=("features.neck",), family="tiny"):
    return DetectorSpec(
        family=family,
        classes=ClassList(("a", "b")),
        levels=tuple(
            FeatureLevel(name=name, channels=channels, stride=2 ** int(name[1:]))
            for name, channels in channels_by_level.items()
        ),
        head="dense",
        parts=frozenset(parts),
        image_size=64,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        licence="none",
    )


def make_batch(sizes, padded):
    sizes = torch.tensor(sizes)
    return ImageBatch(
        pixels=torch.zeros(len(sizes), 3, *padded),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(sizes), 1, 1),
        image_ids=tuple(map(str, range(len(sizes)))),
    )


@pytest.fixture
def spec_of():
    return make_spec


@pytest.fixture
def batch_of():
    return make_batch


@pytest.fixture
def output_of():
    def make(**features):
        return DetectorOutput(features=features)

    return make

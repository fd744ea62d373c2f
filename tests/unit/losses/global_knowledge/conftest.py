"""Options and targets of the loss `global-knowledge`."""

import pytest
import torch

from distildet.losses.global_knowledge.options import GlobalKnowledgeOptions
from distildet.structures import Targets

DEFAULTS = {
    "variant": "official",
    "terms": None,
    "prototypes": "pursuit",
    "num_prototypes": 10,
    "agreement": 10.0,
    "refresh": 1.0,
    "instances": 800,
    "projection": None,
    "global_weight": None,
    "feature_weight": None,
    "background_weight": None,
    "response_weight": None,
}


def make_options(**changes):
    return GlobalKnowledgeOptions(**{**DEFAULTS, **changes})


def make_target(*boxes, labels=None, ignore=(), origin="human"):
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.int64),
        weights=torch.ones(len(boxes)),
        ignore=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
        known_classes=torch.ones(2, dtype=torch.bool),
        origin=origin,
    )


@pytest.fixture
def options_of():
    return make_options


@pytest.fixture
def target_of():
    return make_target

"""Every family takes the score of a box as the target of its class."""

from dataclasses import replace

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.structures import LOSSES

SMALL = {
    "backbone": "test_efficientnet",
    "backbone_levels": ["C3", "C4"],
    "extra_levels": 0,
    "neck_channels": 16,
}


@pytest.fixture(params=["retinanet", "fcos", "faster_rcnn"])
def losses_of(request, make_inputs, as_batch, as_targets):
    """Return the losses of a family for some scores of the boxes of the first image."""
    torch.manual_seed(0)
    classes = ClassList(tuple("abcdefg"))
    detector = build_detector(request.param, classes=classes, image_size=224, **SMALL).eval()
    images, drawn = make_inputs()
    batch, targets = as_batch(images), as_targets(drawn)

    def compute(scores):
        torch.manual_seed(0)  # Faster R-CNN draws regions.
        changed = [replace(targets[0], scores=scores), *targets[1:]]
        return detector(batch, changed, want={LOSSES}).losses

    return compute


def test_a_score_changes_the_classification_loss_alone(losses_of):
    hard, soft = losses_of(None), losses_of(torch.tensor([0.5, 0.2, 0.9]))

    assert {name for name in hard if soft[name] != hard[name]} == {"classification"}


def test_scores_of_one_change_nothing(losses_of):
    hard, certain = losses_of(None), losses_of(torch.ones(3))

    assert {name for name in hard if certain[name] != hard[name]} == set()

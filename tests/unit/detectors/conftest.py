import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet


def make_tiny(**options):
    """A detector of 39 000 weights whose untrained scores differ and pass its floor."""
    torch.manual_seed(0)
    detector = RetinaNet(
        ClassList(("car", "no")),
        **{
            "backbone": "test_efficientnet",
            "image_size": 64,
            "backbone_levels": ("C3", "C4"),
            "extra_levels": 0,
            "neck_channels": 8,
            "head_depth": 1,
            "anchor_scale": 2.0,
            "max_detections": 20,
            **options,
        },
    )
    logits = detector.head.classification_head.cls_logits
    torch.nn.init.normal_(logits.weight, std=3.0)
    torch.nn.init.constant_(logits.bias, -1.0)
    return detector


@pytest.fixture
def make_detector():
    return make_tiny


@pytest.fixture
def tiny():
    return make_tiny()

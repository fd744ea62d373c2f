from pathlib import Path

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from distildet.detectors.stock_architecture import recognise
from distildet.errors import WeightsError

FILE = Path("weights.pth")
ACCEPTED = r"Accepted: state dicts of torchvision's RetinaNet \(v1, v2\), FCOS and Faster R-CNN"


def state_of(build, *arguments, **options):
    """Names and shapes of a stock model, without values."""
    with torch.device("meta"):
        return build(*arguments, **options).state_dict()


def dense_backbone(name="resnet18", stages=(2, 3, 4), extra=None):
    return resnet_fpn_backbone(
        backbone_name=name,
        weights=None,
        returned_layers=list(stages),
        extra_blocks=extra or LastLevelP6P7(256, 256),
    )


def retinanet(**backbone):
    return detection.RetinaNet(dense_backbone(**backbone), 3)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnext50_32x4d",
        "wide_resnet50_2",
    ],
)
def test_the_resnet_is_told_by_its_shapes(name):
    found = recognise(FILE, state_of(retinanet, name=name))

    assert found.options["backbone"] == f"torchvision/{name}"


@pytest.mark.parametrize(
    ("build", "family", "expected"),
    [
        (
            detection.retinanet_resnet50_fpn,
            "retinanet",
            {"extra_levels_from": "neck", "head_norm": "none", "box_loss": "l1"},
        ),
        (
            detection.retinanet_resnet50_fpn_v2,
            "retinanet",
            {"extra_levels_from": "backbone", "head_norm": "group", "box_loss": "giou"},
        ),
        (
            detection.fcos_resnet50_fpn,
            "fcos",
            {"extra_levels_from": "neck", "head_norm": "group", "head_depth": 4},
        ),
        (
            detection.fasterrcnn_resnet50_fpn,
            "faster_rcnn",
            {"neck_norm": "none", "proposal_depth": 1, "region_convs": 0, "region_layers": 2},
        ),
        (
            detection.fasterrcnn_resnet50_fpn_v2,
            "faster_rcnn",
            {"neck_norm": "batch", "proposal_depth": 2, "region_convs": 4, "region_layers": 1},
        ),
    ],
)
def test_versions_are_told_apart(build, family, expected):
    found = recognise(FILE, state_of(build, weights=None, weights_backbone=None, num_classes=5))

    assert found.family == family
    assert found.num_columns == 5
    assert expected.items() <= found.options.items()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("maskrcnn_resnet50_fpn", "Mask R-CNN"),
        ("keypointrcnn_resnet50_fpn", "Keypoint R-CNN"),
        ("ssd300_vgg16", "SSD"),
        ("ssdlite320_mobilenet_v3_large", "SSD"),
        ("fasterrcnn_mobilenet_v3_large_fpn", "a detector on MobileNet"),
    ],
)
def test_other_detectors_are_refused_by_name(name, kind):
    state = state_of(getattr(detection, name), weights=None, weights_backbone=None)

    with pytest.raises(WeightsError, match=rf"weights.pth: .*weights of {kind}, .*{ACCEPTED}"):
        recognise(FILE, state)


def with_tensor(name, *shape):
    return state_of(retinanet) | {name: torch.empty(shape, device="meta")}


def faster_rcnn():
    return detection.FasterRCNN(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 3)


def fcos_on_c2():
    return detection.FCOS(resnet_fpn_backbone(backbone_name="resnet18", weights=None), 3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"fc.weight": torch.zeros(2, 2)}, "no weights of a known detector .*'fc.weight'"),
        (
            with_tensor("head.regression_head.bbox_reg.weight", 12, 256, 3, 3),
            "3 anchors at a location instead of 9",
        ),
        (
            state_of(faster_rcnn) | {"rpn.head.cls_logits.weight": torch.zeros(15, 256, 1, 1)},
            "15 anchors at a location, not 3",
        ),
        (
            state_of(retinanet, stages=(1, 2, 3, 4)),
            r"its pyramid has 4 \+ 2 levels up to C5",
        ),
        (
            {n: t for n, t in state_of(faster_rcnn).items() if ".body.layer4" not in n},
            r"its pyramid has 4 \+ 1 levels up to C4",
        ),
        (
            {n: t for n, t in state_of(retinanet).items() if "backbone.body" not in n},
            "its backbone is no ResNet of torchvision",
        ),
        (
            {n: t for n, t in state_of(faster_rcnn).items() if "box_head" not in n},
            "its region head has no linear layers",
        ),
        (
            state_of(fcos_on_c2),
            "its pyramid starts at C2 instead of C3",
        ),
    ],
)
def test_what_cannot_be_computed_is_refused_with_the_reason(state, message):
    with pytest.raises(WeightsError, match=rf"weights.pth: .*{message}.*{ACCEPTED}"):
        recognise(FILE, state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {n: t for n, t in state_of(retinanet).items() if "cls_logits" not in n},
            r"the tensor 'head\.classification_head\.cls_logits\.weight' is missing",
        ),
        (
            with_tensor("backbone.fpn.inner_blocks.0.0.weight"),
            r"inner_blocks\.0\.0\.weight' has the shape \[\]",
        ),
    ],
)
def test_a_tensor_that_decides_must_be_there(state, message):
    with pytest.raises(WeightsError, match=rf"weights.pth: .*{message}"):
        recognise(FILE, state)

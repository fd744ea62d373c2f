"""Oracle: torchvision's stock FCOS with equal weights, fed the same padded images."""

import pytest
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import resnet18
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from distildet.classes import ClassList
from distildet.detectors.bundle import load_detector, save_detector
from distildet.detectors.fcos import FCOS
from distildet.errors import ConfigError
from distildet.structures import DENSE, DETECTIONS, FEATURES_HEAD, LOSSES

NUM_CLASSES = 7
LOSS_NAMES = {
    "classification": "classification",
    "box": "bbox_regression",
    "quality": "bbox_ctrness",
}


def make_pair():
    torch.manual_seed(0)
    body = resnet18(weights=None)
    names = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(body, names, [128, 256, 512], 256, LastLevelP6P7(256, 256))
    # Our floor and number of detections; torchvision has 0.2 and 100.
    stock = detection.FCOS(
        backbone, NUM_CLASSES, score_thresh=0.05, detections_per_img=300, _skip_resize=True
    )
    # Untrained predictions are all alike; spread them so that detections survive.
    torch.nn.init.normal_(stock.head.classification_head.cls_logits.weight, std=0.1)
    torch.nn.init.normal_(stock.head.regression_head.bbox_reg.weight, std=0.05)
    torch.nn.init.normal_(stock.head.regression_head.bbox_ctrness.weight, std=0.05)
    torch.nn.init.constant_(stock.head.regression_head.bbox_reg.bias, 1.0)
    ours = FCOS(ClassList(tuple("abcdefg")), backbone="torchvision/resnet18")
    state = {
        name.replace("backbone.fpn", "neck.fpn"): value
        for name, value in stock.state_dict().items()
    }
    ours.load_state_dict(state)
    return stock, ours


def make_tiny(**options):
    torch.manual_seed(0)
    return FCOS(
        ClassList(("car", "no")),
        **{
            "backbone": "test_efficientnet",
            "image_size": 64,
            "backbone_levels": ("C3", "C4"),
            "extra_levels": 0,
            "neck_channels": 8,
            "head_depth": 1,
            **options,
        },
    )


EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


@pytest.mark.parametrize("is_training", [True, False])
def test_losses_equal_the_stock_model(is_training, make_inputs, as_batch, as_targets):
    stock, ours = make_pair()
    images, targets = make_inputs()
    stock.train(is_training)
    stock.transform.train()  # in eval mode it would resize
    ours.train(is_training)

    with torch.no_grad():
        transformed, moved = stock.transform(images, targets)
        features = list(stock.backbone(transformed.tensors).values())
        anchors = stock.anchor_generator(transformed, features)
        counts = [f.shape[2] * f.shape[3] for f in features]
        expected = stock.compute_loss(moved, stock.head(features), anchors, counts)
        losses = ours(as_batch(images), as_targets(targets), want={LOSSES}).losses

    assert min(losses.values()) > 0.1
    for name, stock_name in LOSS_NAMES.items():
        torch.testing.assert_close(losses[name], expected[stock_name], rtol=1e-5, atol=1e-6)


def test_detections_equal_the_stock_model(make_inputs, as_batch):
    stock, ours = make_pair()
    images, _ = make_inputs()
    stock.eval()
    stock.transform.train()  # in eval mode it would resize
    ours.eval()

    with torch.no_grad():
        expected = stock(images)
        detections = ours(as_batch(images), want={DETECTIONS}).detections

    assert [len(e["scores"]) for e in expected] == [len(d) for d in detections]
    assert min(len(e["scores"]) for e in expected) >= 50
    for found, wanted in zip(detections, expected, strict=True):
        torch.testing.assert_close(found.boxes, wanted["boxes"], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(found.labels, wanted["labels"])


def test_priors_are_squares_of_one_stride_around_the_locations(as_batch):
    ours = make_tiny().eval()

    dense = ours(as_batch([torch.rand(3, 32, 64)], (32, 64)), want={DENSE}).dense

    # Maps of 4x8 cells of 8 px and 2x4 cells of 16 px; rows of locations behind each other.
    assert dense.priors[0][[0, 1, 8]].tolist() == [[-4, -4, 4, 4], [4, -4, 12, 4], [-4, 4, 4, 12]]
    assert dense.priors[1][[0, 1, 4]].tolist() == [[-8, -8, 8, 8], [8, -8, 24, 8], [-8, 8, 8, 24]]
    assert [tuple(q.shape) for q in dense.quality_logits] == [(1, 32), (1, 8)]
    assert [tuple(c.shape) for c in dense.box_codes] == [(1, 32, 4), (1, 8, 4)]
    assert min(c.min() for c in dense.box_codes) >= 0


def test_tower_features_are_those_of_the_spec(as_batch):
    ours = make_tiny().eval()

    features = ours(as_batch([torch.rand(3, 32, 64)], (32, 64)), want={FEATURES_HEAD}).features

    stated = {level.name: level.channels for level in ours.spec.levels}
    assert set(features) == {"cls.P3", "cls.P4", "box.P3", "box.P4"}
    assert {name: maps.shape[1] for name, maps in features.items()}.items() <= stated.items()


def test_every_parameter_gets_a_gradient_without_boxes(as_batch, as_targets):
    ours = make_tiny()
    batch = as_batch([torch.rand(3, 64, 64)] * 2, (64, 64))

    losses = ours(batch, as_targets([EMPTY] * 2, num_classes=2), want={LOSSES}).losses
    sum(losses.values()).backward()

    assert losses["box"].item() == losses["quality"].item() == 0
    assert [n for n, p in ours.named_parameters() if p.grad is None] == []


def test_losses_are_float32_under_autocast_and_priors_too(as_batch, as_targets):
    ours = make_tiny()
    batch = as_batch([torch.rand(3, 64, 64)], (64, 64))
    box = {"boxes": torch.tensor([[9.0, 9, 39, 39]]), "labels": torch.tensor([1])}

    with torch.autocast("cpu", torch.bfloat16):
        output = ours(batch, as_targets([box], num_classes=2), want={LOSSES, DENSE})

    assert output.dense.logits[0].dtype == torch.float32
    assert {priors.dtype for priors in output.dense.priors} == {torch.float32}
    assert {value.dtype for value in output.losses.values()} == {torch.float32}
    assert all(value.isfinite() for value in output.losses.values())


def test_every_side_of_an_untrained_box_has_a_gradient(as_batch):
    ours = make_tiny()

    dense = ours(as_batch([torch.rand(3, 64, 64)], (64, 64)), want={DENSE}).dense

    assert min(codes.min() for codes in dense.box_codes) > 0


def test_it_overfits_one_image(as_batch, as_targets):
    ours = make_tiny(neck_channels=16)
    ours.freeze_batch_norm()
    pixels = torch.zeros(3, 64, 64)
    pixels[0, 12:44, 20:52] = 1.0
    batch = as_batch([pixels], (64, 64))
    box = {"boxes": torch.tensor([[20.0, 12, 52, 44]]), "labels": torch.tensor([1])}
    optimizer = torch.optim.Adam(ours.parameters(), lr=0.01)

    for _ in range(40):
        losses = ours(batch, as_targets([box], num_classes=2), want={LOSSES}).losses
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    (found,) = ours.eval()(batch, want={DETECTIONS}).detections

    assert found.labels[0] == 1
    assert found.scores[0] > 0.5
    torch.testing.assert_close(found.boxes[0], box["boxes"][0], rtol=0, atol=3.0)


def test_a_bundle_gives_the_same_detector(tmp_path):
    images = [torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))]
    tiny = make_tiny(head_norm="none", center_radius=2.0, score_floor=0.0)

    save_detector(tiny, tmp_path / "student")
    loaded = load_detector(tmp_path / "student")

    assert loaded.spec == tiny.spec
    assert loaded.spec.family == "fcos"
    torch.testing.assert_close(loaded.state_dict(), tiny.state_dict(), rtol=0, atol=0)
    (expected,), (found,) = tiny.predict(images), loaded.predict(images)
    assert len(found) > 0
    assert found.boxes.equal(expected.boxes)
    assert found.scores.equal(expected.scores)


@pytest.mark.parametrize(("channels", "groups"), [(48, 16), (20, 4), (7, 1), (64, 32)])
def test_group_norm_fits_any_width_of_the_neck(channels, groups):
    tower = make_tiny(neck_channels=channels).head.classification_head["conv"]

    assert tower[1].num_groups == groups


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck_channels": 0}, "fcos option neck_channels is 0"),
        ({"head_depth": -1}, "head_depth is -1"),
        ({"max_detections": 0}, "max_detections is 0"),
        ({"center_radius": 0.0}, r"center_radius is 0\.0"),
        ({"score_floor": -0.1}, r"score_floor is -0\.1"),
        ({"nms_iou": 2.0}, r"nms_iou is 2\.0"),
        ({"backbone_levels": ("C3", "C5")}, "consecutive levels"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FCOS(ClassList(("a",)), backbone="torchvision/resnet18", **options)

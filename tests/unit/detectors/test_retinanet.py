"""Oracle: torchvision's stock RetinaNet with equal weights, fed the same padded images."""

import pytest
import torch
from torchvision.models.detection import RetinaNet as StockRetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.resnet import resnet18
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.errors import ConfigError, MissingPartError
from distildet.structures import DETECTIONS, LOSSES, ImageBatch

NUM_CLASSES = 7


def make_pair(box_loss="l1"):
    torch.manual_seed(0)
    body = resnet18(weights=None)
    names = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(body, names, [128, 256, 512], 256, LastLevelP6P7(512, 256))
    stock = StockRetinaNet(backbone, NUM_CLASSES, _skip_resize=True)
    stock.head.regression_head._loss_type = box_loss
    # Untrained logits all lie near the prior; spread them so that detections survive.
    torch.nn.init.normal_(stock.head.classification_head.cls_logits.weight, std=0.6)
    torch.nn.init.normal_(stock.head.regression_head.bbox_reg.weight, std=0.05)
    ours = RetinaNet(
        ClassList(tuple("abcdefg")),
        backbone="torchvision/resnet18",
        extra_levels_from="backbone",
        box_loss=box_loss,
    )
    state = {
        name.replace("backbone.fpn", "neck.fpn"): value
        for name, value in stock.state_dict().items()
    }
    ours.load_state_dict(state)
    return stock, ours


@pytest.mark.parametrize("box_loss", ["l1", "giou"])
@pytest.mark.parametrize("is_training", [True, False])
def test_losses_equal_the_stock_model(box_loss, is_training, make_inputs, as_batch, as_targets):
    stock, ours = make_pair(box_loss)
    images, targets = make_inputs()
    stock.train(is_training)
    stock.transform.train()  # in eval mode it would resize
    ours.train(is_training)

    with torch.no_grad():
        transformed, moved = stock.transform(images, targets)
        features = list(stock.backbone(transformed.tensors).values())
        anchors = stock.anchor_generator(transformed, features)
        expected = stock.compute_loss(moved, stock.head(features), anchors)
        losses = ours(as_batch(images), as_targets(targets), want={LOSSES}).losses

    torch.testing.assert_close(
        losses["classification"], expected["classification"], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(losses["box"], expected["bbox_regression"], rtol=1e-5, atol=1e-6)


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


def test_every_parameter_gets_a_gradient_without_boxes(make_inputs, as_batch, as_targets):
    _, ours = make_pair()
    images, _ = make_inputs()
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}] * len(
        images
    )

    losses = ours(as_batch(images), as_targets(empty), want={LOSSES}).losses
    sum(losses.values()).backward()

    assert losses["box"].item() == 0
    assert [n for n, p in ours.named_parameters() if p.grad is None] == []


def test_a_part_that_is_not_offered_is_refused(make_inputs, as_batch):
    _, ours = make_pair()
    images, _ = make_inputs()

    with pytest.raises(MissingPartError, match="cannot return queries"):
        ours(as_batch(images), want={"queries"})


def test_padding_does_not_change_a_picture(make_inputs, as_batch):
    _, ours = make_pair()
    ours.eval()
    images, _ = make_inputs()
    batch = as_batch(images)
    noisy = batch.pixels.clone()
    noisy[2, :, 60:], noisy[2, :, :, 100:] = 5.0, 5.0

    assert torch.equal(
        ours.normalise(batch)[2],
        ours.normalise(ImageBatch(**{**vars(batch), "pixels": noisy}))[2],
    )
    assert float(ours.normalise(batch)[2, :, 60:].abs().max()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck_channels": 0}, "neck_channels is 0"),
        ({"extra_levels": -1}, "extra_levels is -1"),
        ({"anchor_scale": 0.0}, "anchor_scale is 0.0"),
        ({"anchor_ratios": ()}, r"anchor_ratios is \[\]"),
        ({"nms_iou": 2.0}, "nms_iou is 2.0"),
        ({"backbone_levels": ("C3", "C5")}, "consecutive levels"),
        ({"backbone_levels": ("P3",)}, "backbone_levels has 'P3'"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        RetinaNet(ClassList(("a",)), backbone="torchvision/resnet18", **options)

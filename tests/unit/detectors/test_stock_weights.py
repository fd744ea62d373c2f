"""Oracle: torchvision's own models with the same weights, fed the same padded images."""

import re
from argparse import Namespace
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models._meta import _COCO_CATEGORIES
from torchvision.models.detection._utils import overwrite_eps
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import resnet18
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from distildet.classes import ClassList
from distildet.detectors.bundle import load_detector, save_detector
from distildet.detectors.stock_weights import load_stock_detector
from distildet.errors import ConfigError, WeightsError
from distildet.structures import DETECTIONS, ImageBatch

CHANNELS = 64
NAMES = ClassList(tuple("abcdef"))
SIZES = [(40, 96), (64, 64)]
COCO = {i: n for i, n in enumerate(_COCO_CATEGORIES) if n not in {"__background__", "N/A"}}


def small_backbone(first, norm=FrozenBatchNorm2d, extra=None):
    """As resnet_fpn_backbone makes it, with fewer channels."""
    stages = range(first, 5)
    return BackboneWithFPN(
        resnet18(norm_layer=norm),
        {f"layer{stage}": str(i) for i, stage in enumerate(stages)},
        [32 * 2**stage for stage in stages],
        CHANNELS,
        extra,
    )


def dense_backbone(norm=FrozenBatchNorm2d, p6_from=CHANNELS):
    return small_backbone(2, norm, LastLevelP6P7(p6_from, CHANNELS))


def retinanet(num_columns, **backbone):
    return detection.RetinaNet(dense_backbone(**backbone), num_columns, _skip_resize=True)


def retinanet_on_c2(num_columns):
    return detection.RetinaNet(small_backbone(1), num_columns, _skip_resize=True)


def retinanet_v2(num_columns):
    head = RetinaNetHead(CHANNELS, 9, num_columns, norm_layer=partial(nn.GroupNorm, 32))
    backbone = dense_backbone(nn.BatchNorm2d, p6_from=512)
    return detection.RetinaNet(backbone, num_columns, head=head, _skip_resize=True)


def fcos(num_columns):
    backbone = dense_backbone()
    # One floor for all families.
    return detection.FCOS(backbone, num_columns, score_thresh=0.05, _skip_resize=True)


def faster_rcnn(num_columns):
    return detection.FasterRCNN(small_backbone(1), num_columns, _skip_resize=True)


def faster_rcnn_on_c3(num_columns):
    return detection.FasterRCNN(dense_backbone(), num_columns, _skip_resize=True)


def faster_rcnn_v2(num_columns):
    stages = {f"layer{i + 1}": str(i) for i in range(4)}
    widths = [64, 128, 256, 512]
    convs = [CHANNELS] * 4
    return detection.FasterRCNN(
        BackboneWithFPN(resnet18(), stages, widths, CHANNELS, norm_layer=nn.BatchNorm2d),
        num_columns,
        rpn_head=RPNHead(CHANNELS, 3, conv_depth=2),
        box_head=FastRCNNConvFCHead((CHANNELS, 7, 7), convs, [1024], norm_layer=nn.BatchNorm2d),
        _skip_resize=True,
    )


SMALL = {
    "retinanet": partial(retinanet, 6),
    "retinanet on C2": partial(retinanet_on_c2, 6),
    "retinanet v2": partial(retinanet_v2, 6),
    "fcos": partial(fcos, 6),
    "faster_rcnn": partial(faster_rcnn, 7),
    "faster_rcnn on C3": partial(faster_rcnn_on_c3, 7),
    "faster_rcnn v2": partial(faster_rcnn_v2, 7),
}
BUILDERS = {
    "retinanet": partial(detection.retinanet_resnet50_fpn, _skip_resize=True),
    "retinanet v2": partial(detection.retinanet_resnet50_fpn_v2, _skip_resize=True),
    "fcos": partial(detection.fcos_resnet50_fpn, score_thresh=0.05, _skip_resize=True),
    "faster_rcnn": partial(detection.fasterrcnn_resnet50_fpn, _skip_resize=True),
    "faster_rcnn v2": partial(detection.fasterrcnn_resnet50_fpn_v2, _skip_resize=True),
}
# Large enough that scores differ, small enough that they do not all round to 1.
SPREAD = 0.05


def spread(model, columns=None):
    """Make the scores of an untrained model differ; columns that are none of these score least."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "classification_head.conv" in name and parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter, generator=generator)  # else logits fade away
        if name.endswith(("cls_logits.weight", "cls_score.weight")) and "rpn" not in name:
            parameter.data.normal_(std=SPREAD, generator=generator)
        if name.endswith(("bbox_reg.weight", "bbox_pred.weight", "bbox_ctrness.weight")):
            parameter.data.normal_(std=0.02, generator=generator)
        if name.endswith("classification_head.cls_logits.bias") and columns is not None:
            by_anchor = parameter.data.view(-1, 91)
            by_anchor[:, [i for i in range(91) if i not in columns]] = -1000.0
        if name.endswith("cls_score.bias") and columns is not None:
            parameter.data[::6] += 5.0  # a softmax over 91 equal columns is below the floor
    return model.eval()


def randomise_norm(model, eps):
    """Give every BatchNorm variances of many magnitudes, and gains that undo these."""
    generator = torch.Generator().manual_seed(2)
    for name, variance in model.named_buffers():
        if name.endswith("running_var"):
            norm = model.get_submodule(name.removesuffix(".running_var"))
            variance.copy_(10 ** (torch.rand(variance.shape, generator=generator) * 10 - 8))
            gain = torch.rand(variance.shape, generator=generator) * 0.8 + 0.4
            norm.weight.data = gain * (variance + eps).sqrt()
            norm.running_mean.normal_(generator=generator).mul_(variance.sqrt())
    return model


def make_batch():
    generator = torch.Generator().manual_seed(3)
    images = [torch.rand(3, height, width, generator=generator) for height, width in SIZES]
    pixels = torch.zeros(len(images), 3, 64, 96)
    for padded, image in zip(pixels, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    batch = ImageBatch(
        pixels=pixels,
        sizes=torch.tensor(SIZES),
        image_sizes=torch.tensor(SIZES),
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(images), 1, 1),
        image_ids=tuple(map(str, range(len(images)))),
    )
    return images, batch


@torch.no_grad()
def stock_detections(stock, columns):
    """What the stock model finds; labels as positions among the columns, others left out."""
    images, _ = make_batch()
    stock.transform.train()  # in eval mode it would resize
    if hasattr(stock, "roi_heads"):
        limit, stock.roi_heads.detections_per_img = stock.roi_heads.detections_per_img, 100_000
    else:
        limit = stock.detections_per_img
    label_of = torch.full((200,), -1)
    label_of[torch.tensor(list(columns))] = torch.arange(len(columns))
    results = []
    for found in stock(images):
        labels = label_of[found["labels"]]
        kept = torch.where(labels >= 0)[0][:limit]
        results.append((found["boxes"][kept], found["scores"][kept], labels[kept]))
    return results


@torch.no_grad()
def assert_detects_as(detector, expected):
    _, batch = make_batch()
    detections = detector(batch, want={DETECTIONS}).detections
    assert min(len(scores) for _, scores, _ in expected) >= 50
    for found, (boxes, scores, labels) in zip(detections, expected, strict=True):
        assert torch.equal(found.labels, labels)
        torch.testing.assert_close(found.scores, scores, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.boxes, boxes, rtol=1e-5, atol=1e-4)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("kind", SMALL)
def test_a_fine_tuned_model_detects_what_the_stock_model_does(kind, file):
    torch.manual_seed(0)
    stock = spread(SMALL[kind]())
    torch.save(stock.state_dict(), file)
    has_background = kind.startswith("faster_rcnn")

    detector = load_stock_detector(file, classes=NAMES)

    assert not detector.training
    assert detector.spec.classes == NAMES
    assert detector.spec.image_size == 1067
    assert_detects_as(detector, stock_detections(stock, range(has_background, 6 + has_background)))


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] * (kind == "faster_rcnn v2"))
        for kind in BUILDERS
    ],
)
def test_a_model_of_torchvisions_builders_detects_the_classes_of_coco(kind, file):
    torch.manual_seed(0)
    stock = spread(BUILDERS[kind](weights=None, weights_backbone=None), COCO)
    torch.save(stock.state_dict(), file)

    detector = load_stock_detector(file)

    assert list(detector.spec.classes) == list(COCO.values())
    assert len(detector.spec.classes) == 80
    assert_detects_as(detector, stock_detections(stock, COCO))


def bare(state):
    return state


def as_reference_scripts_do(state):
    return {"model": state, "optimizer": {"state": {}}, "args": Namespace(lr=0.02), "epoch": 25}


@pytest.mark.parametrize(
    ("build", "eps", "wrap", "options"),
    [
        (partial(retinanet, 91), 0.0, bare, {}),
        (partial(faster_rcnn, 91), 0.0, bare, {}),
        (partial(fcos, 91), 1e-5, bare, {}),
        (partial(retinanet, 91), 1e-5, as_reference_scripts_do, {}),
        (partial(retinanet, 91, norm=nn.BatchNorm2d), 1e-5, bare, {}),
        (partial(retinanet, 6), 1e-5, bare, {"classes": NAMES}),
        (partial(retinanet, 6), 0.0, bare, {"classes": NAMES, "batch_norm_eps": 0.0}),
        (partial(retinanet, 91), 1e-3, bare, {"batch_norm_eps": 1e-3}),
    ],
)
def test_variances_of_any_size_keep_the_eps_of_training(build, eps, wrap, options, file):
    torch.manual_seed(0)
    stock = build()
    overwrite_eps(stock, eps)
    randomise_norm(stock, eps).eval()
    torch.save(wrap(stock.state_dict()), file)
    pixels = torch.rand(1, 3, 64, 96, dtype=torch.float64)

    detector = load_stock_detector(file, **options)

    # In float64, since rounding alone would grow to more than eps here changes.
    expected = stock.double().backbone.body(pixels)
    found = detector.double().backbone(pixels)
    for wanted, level in zip(expected.values(), found.values(), strict=True):
        torch.testing.assert_close(level, wanted, rtol=1e-5, atol=1e-5)


def with_old_names(state):
    """Names before torchvision 0.13, in which the published files of RetinaNet v1 are written."""
    old = {}
    for name, tensor in state.items():
        shortened = re.sub(r"(_blocks\.\d)\.0\.", r"\1.", name)
        shortened = re.sub(r"(rpn\.head\.conv)\.0\.0\.", r"\1.", shortened)
        shortened = re.sub(
            r"(n_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.", shortened
        )
        old[shortened] = tensor
    return old


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (partial(retinanet, 7), "head.regression_head.conv.6.bias"),
        (partial(faster_rcnn, 8), "rpn.head.conv.bias"),
    ],
)
def test_files_with_names_of_older_versions_are_read(build, example, file):
    new = build().state_dict()
    old = with_old_names(new)
    assert example in old
    assert "backbone.fpn.layer_blocks.2.bias" in old
    torch.save(new, file)
    expected = load_stock_detector(file, classes=ClassList(tuple("abcdefg"))).state_dict()

    torch.save(old, file)
    found = load_stock_detector(file, classes=ClassList(tuple("abcdefg"))).state_dict()

    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_labels_counted_from_one_leave_the_first_column_unused(file):
    torch.manual_seed(0)
    stock = spread(retinanet(7))
    stock.head.classification_head.cls_logits.bias.data.view(9, 7)[:, 0] = -1000.0
    torch.save(stock.state_dict(), file)

    detector = load_stock_detector(file, classes=NAMES)

    assert_detects_as(detector, stock_detections(stock, range(1, 7)))


@pytest.mark.parametrize("kind", ["retinanet v2", "fcos", "faster_rcnn v2"])
def test_a_bundle_of_stock_weights_gives_the_same_detections(kind, file, tmp_path):
    torch.manual_seed(0)
    torch.save(spread(SMALL[kind]()).state_dict(), file)
    detector = load_stock_detector(file, classes=NAMES, image_size=96)
    _, batch = make_batch()

    save_detector(detector, tmp_path / "bundle")
    again = load_detector(tmp_path / "bundle")

    assert again.spec == detector.spec
    expected = detector(batch, want={DETECTIONS}).detections
    found = again(batch, want={DETECTIONS}).detections
    torch.testing.assert_close(
        [(d.boxes, d.scores, d.labels) for d in found],
        [(d.boxes, d.scores, d.labels) for d in expected],
        rtol=0,
        atol=0,
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("backbone.body.layer2.0.conv1.weight"), "1 are missing .*layer2.0.conv1"),
        (lambda s: s.update({"ema.decay": torch.zeros(1)}), r"1 are unknown .*ema\.decay"),
        (
            lambda s: s.update({"backbone.body.conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"conv1.weight \[64, 1, 7, 7\] instead of \[64, 3, 7, 7\]",
        ),
        (
            lambda s: s["head.regression_head.bbox_reg.bias"].fill_(float("nan")),
            "1 are not finite .*bbox_reg.bias",
        ),
        (lambda s: s.pop("head.classification_head.cls_logits.bias"), "cls_logits.bias"),
    ],
)
def test_tensors_that_do_not_make_the_whole_detector_are_listed(change, message, file):
    state = retinanet(6).state_dict()
    change(state)
    torch.save(state, file)

    with pytest.raises(WeightsError, match=rf"weights\.pth: .*whole retinanet .*{message}"):
        load_stock_detector(file, classes=NAMES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size is 0. Accepted: 1 or more"),
        ({"batch_norm_eps": -1e-5}, "batch_norm_eps is -1e-05. Accepted: 0 or more"),
        ({"batch_norm_eps": float("nan")}, "batch_norm_eps is nan"),
    ],
)
def test_options_without_meaning_are_refused(options, message, file):
    with pytest.raises(ConfigError, match=rf"weights\.pth: {message}"):
        load_stock_detector(file, **options)


EMPTY = "has the shape .* so nothing is in it. Is the file whole"
CLASS_LAYER = "head.classification_head.cls_logits"


@pytest.mark.parametrize(
    ("build", "tensors", "message"),
    [
        (retinanet, {f"{CLASS_LAYER}.weight": (0, 256, 3, 3)}, EMPTY),
        (faster_rcnn, {"backbone.fpn.inner_blocks.0.0.weight": (0, 64, 1, 1)}, EMPTY),
        (faster_rcnn, {"roi_heads.box_head.fc6.weight": (1024, 0)}, EMPTY),
        (retinanet, {f"{CLASS_LAYER}.bias": (7,)}, r"bias' has the shape \[7\], .* 54 outputs"),
        (retinanet, {f"{CLASS_LAYER}.bias": ()}, r"bias' has the shape \[\], .* 54 outputs"),
        (fcos, {f"{CLASS_LAYER}.bias": (7,)}, r"bias' has the shape \[7\], .* 6 outputs"),
    ],
)
def test_tensors_of_a_size_that_cannot_be_are_refused(build, tensors, message, file):
    changed = {name: torch.zeros(shape) for name, shape in tensors.items()}
    torch.save(build(6).state_dict() | changed, file)

    with pytest.raises(WeightsError, match=rf"weights\.pth: the tensor .*{message}"):
        load_stock_detector(file, classes=NAMES)


def test_batch_norm_of_another_width_is_told_where_its_eps_is_converted(file):
    state = retinanet(6).state_dict() | {"backbone.body.bn1.weight": torch.zeros(3)}
    torch.save(state, file)

    with pytest.raises(WeightsError, match=r"bn1\.weight \[3\] instead of \[64\]"):
        load_stock_detector(file, classes=NAMES, batch_norm_eps=0.0)

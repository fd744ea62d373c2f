"""Oracle: torchvision's stock Faster R-CNN with equal weights, fed the same padded images."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN as StockFasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.resnet import resnet18
from torchvision.ops import MultiScaleRoIAlign

from distildet.classes import ClassList
from distildet.detectors.bundle import load_detector, save_detector
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.errors import ConfigError, MissingPartError
from distildet.structures import (
    DETECTIONS,
    LOSSES,
    REGIONS,
    ImageBatch,
    RegionPrediction,
    Targets,
)

NUM_CLASSES = 7
LOSS_NAMES = {
    "objectness": "loss_objectness",
    "proposal_box": "loss_rpn_box_reg",
    "classification": "loss_classifier",
    "box": "loss_box_reg",
}


EVERY = 10**6  # anchors or regions: more than there are


def make_stock(*, is_second_version):
    torch.manual_seed(0)
    norm = nn.BatchNorm2d if is_second_version else None
    names = {f"layer{i + 1}": str(i) for i in range(4)}
    backbone = BackboneWithFPN(
        resnet18(weights=None), names, [64, 128, 256, 512], 256, norm_layer=norm
    )
    # The second version's convolutions are slow: fewer regions there, the defaults in the first.
    few = {
        "box_batch_size_per_image": 48,
        "rpn_post_nms_top_n_train": 150,
        "rpn_pre_nms_top_n_train": 150,
        "rpn_post_nms_top_n_test": 150,
        "rpn_pre_nms_top_n_test": 150,
    }
    stock = StockFasterRCNN(
        backbone,
        NUM_CLASSES + 1,
        _skip_resize=True,
        box_detections_per_img=300,
        **(few if is_second_version else {}),
        rpn_head=RPNHead(256, 3, conv_depth=2) if is_second_version else None,
        box_head=FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=norm)
        if is_second_version
        else None,
    )
    # Untrained outputs hardly differ; spread them so that proposals and detections survive.
    nn.init.normal_(stock.rpn.head.cls_logits.weight, std=0.1)
    nn.init.normal_(stock.rpn.head.bbox_pred.weight, std=0.02)
    nn.init.normal_(stock.roi_heads.box_predictor.cls_score.weight, std=0.6)
    nn.init.normal_(stock.roi_heads.box_predictor.bbox_pred.weight, std=0.1)
    return stock


def renamed(state):
    """Names of the stock model -> ours."""
    pairs = {
        "backbone.fpn": "neck.fpn",
        "rpn.head": "proposal_network.head",
        "roi_heads.box_head.fc6": "region_head.layers.1",
        "roi_heads.box_head.fc7": "region_head.layers.3",
        "roi_heads.box_head": "region_head.layers",
        "roi_heads.box_predictor": "region_head.predictor",
    }
    ours = {}
    for name, value in state.items():
        start = next((s for s in pairs if name.startswith(s)), "")
        ours[pairs.get(start, "") + name.removeprefix(start)] = value
    return ours


def make_pair(*, is_second_version=False, **options):
    stock = make_stock(is_second_version=is_second_version)
    second = {
        "neck_norm": "batch",
        "proposal_depth": 2,
        "region_convs": 4,
        "region_norm": "batch",
        "region_layers": 1,
        "region_samples": 48,
        "train_proposals": 150,
        "test_proposals": 150,
    }
    ours = FasterRCNN(
        ClassList(tuple("abcdefg")),
        backbone="torchvision/resnet18",
        **{**(second if is_second_version else {}), **options},
    )
    ours.load_state_dict(renamed(stock.state_dict()))
    return stock, ours


@pytest.mark.parametrize("is_second_version", [False, True])
@pytest.mark.parametrize("is_training", [True, False])
def test_losses_equal_the_stock_model(
    is_second_version, is_training, make_inputs, as_batch, as_targets
):
    stock, ours = make_pair(
        is_second_version=is_second_version,
        proposal_samples=EVERY,
        train_proposals=150,
        region_samples=EVERY,
    )
    # The samplers draw from generators of their own; all there is to draw is the same for both.
    stock.rpn.fg_bg_sampler.batch_size_per_image = EVERY
    stock.roi_heads.fg_bg_sampler.batch_size_per_image = EVERY
    stock.rpn._pre_nms_top_n["training"] = stock.rpn._post_nms_top_n["training"] = 150
    images, targets = make_inputs()
    # Only the normalisations differ between the modes; stock computes losses in training mode.
    stock.train()
    for module in (stock.backbone, stock.roi_heads.box_head):
        module.train(is_training)
    ours.train(is_training)
    moved = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]

    with torch.no_grad():
        expected = stock(images, moved)
        losses = ours(as_batch(images), as_targets(targets), want={LOSSES}).losses

    for name, theirs in LOSS_NAMES.items():
        torch.testing.assert_close(losses[name], expected[theirs], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_second_version", [False, True])
def test_detections_equal_the_stock_model(is_second_version, make_inputs, as_batch):
    stock, ours = make_pair(is_second_version=is_second_version)
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
        torch.testing.assert_close(found.boxes, wanted["boxes"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(found.scores, wanted["scores"], rtol=1e-5, atol=1e-6)
        assert torch.equal(found.labels + 1, wanted["labels"])


def test_the_first_batch_does_not_decide_from_which_level_regions_are_pooled(make_inputs, as_batch):
    _, ours = make_pair()
    images, _ = make_inputs()
    ours.eval()
    small = [image[:, :40, :40] for image in images]

    with torch.no_grad():
        before = ours(as_batch(images), want={DETECTIONS}).detections
        ours(as_batch(small), want={DETECTIONS})
        after = ours(as_batch(images), want={DETECTIONS}).detections

    assert ours.region_head.pool.scales == [1 / 4, 1 / 8, 1 / 16, 1 / 32]
    assert all(torch.equal(b.boxes, a.boxes) for b, a in zip(before, after, strict=True))


def test_pooled_regions_equal_those_of_a_fresh_stock_pooling():
    _, ours = make_pair()
    generator = torch.Generator().manual_seed(2)
    features = {
        f"P{i}": torch.randn(1, 256, 128 // 2**i, 224 // 2**i, generator=generator)
        for i in range(2, 7)
    }
    low = torch.rand(40, 2, generator=generator) * 60
    boxes = torch.cat([low, low + 2 + torch.rand(40, 2, generator=generator) * 120], dim=1)

    pooled = ours.region_head(features, [boxes]).features[0]

    fresh = MultiScaleRoIAlign(["P2", "P3", "P4", "P5"], 7, 2)
    assert torch.equal(pooled, fresh(features, [boxes], [(128, 224)]))


def test_regions_with_losses_are_those_that_are_learned_from(make_inputs, as_batch, as_targets):
    _, ours = make_pair(region_samples=32)
    images, targets = make_inputs()

    output = ours(as_batch(images), as_targets(targets), want={LOSSES, REGIONS})

    regions = output.regions
    assert [len(boxes) for boxes in regions.proposals] == [32] * 4
    assert [tuple(logits.shape) for logits in regions.logits] == [(32, 8)] * 4
    assert [tuple(codes.shape) for codes in regions.box_codes] == [(32, 7, 4)] * 4
    assert [tuple(features.shape) for features in regions.features] == [(32, 256, 7, 7)] * 4
    assert all(logits.requires_grad for logits in regions.logits)
    assert not any(boxes.requires_grad for boxes in regions.proposals)


def test_given_proposals_are_judged_by_this_detector(make_inputs, as_batch, as_targets):
    _, student = make_pair()
    teacher = make_pair()[1]
    teacher.load_state_dict({k: v * 1.01 for k, v in student.state_dict().items()})
    images, targets = make_inputs()
    batch = as_batch(images)
    learned = student(batch, as_targets(targets), want={LOSSES, REGIONS}).regions
    teacher.eval()

    judged = teacher(batch, want={REGIONS}, given={REGIONS: learned}).regions

    features = teacher.neck(teacher.backbone(teacher.normalise(batch)))
    expected = teacher.region_head(features, learned.proposals)
    assert all(map(torch.equal, judged.proposals, learned.proposals))
    assert all(map(torch.equal, judged.logits, expected.logits))
    assert not torch.equal(judged.logits[0], learned.logits[0])


def test_regions_alone_are_those_of_the_detections(make_inputs, as_batch):
    _, ours = make_pair(test_proposals=30)
    images, _ = make_inputs()
    ours.eval()

    with torch.no_grad():
        alone = ours(as_batch(images), want={REGIONS}).regions
        both = ours(as_batch(images), want={REGIONS, DETECTIONS})

    assert max(len(boxes) for boxes in alone.proposals) == 30
    assert all(map(torch.equal, alone.logits, both.regions.logits))


def test_unused_columns_take_part_in_the_softmax_and_in_nothing_else(make_inputs, as_batch):
    stock, _ = make_pair()
    ours = FasterRCNN(
        ClassList(tuple("abdeg")),
        backbone="torchvision/resnet18",
        unused_columns=(2, 5),
        max_detections=10_000,
    )
    ours.load_state_dict(renamed(stock.state_dict()))
    stock.eval()
    stock.transform.train()
    stock.roi_heads.detections_per_img = 10_000
    ours.eval()
    images, _ = make_inputs()

    with torch.no_grad():
        expected = stock(images)
        output = ours(as_batch(images), want={DETECTIONS, REGIONS})

    theirs_by_ours = torch.tensor([1, 2, 4, 5, 7])
    for found, wanted in zip(output.detections, expected, strict=True):
        is_used = torch.isin(wanted["labels"], theirs_by_ours)
        torch.testing.assert_close(found.scores, wanted["scores"][is_used], rtol=1e-5, atol=1e-6)
        # Scores that are equal but for the last bit may change places.
        counts = torch.bincount(wanted["labels"][is_used], minlength=8)
        assert torch.equal(torch.bincount(theirs_by_ours[found.labels], minlength=8), counts)
    assert output.regions.logits[0].shape[1] == 6
    assert output.regions.box_codes[0].shape[1] == 5


@pytest.mark.parametrize("count", [0, 1])
def test_every_parameter_gets_a_gradient(count, make_inputs, as_batch, as_targets):
    _, ours = make_pair(is_second_version=True)
    images, targets = make_inputs()
    few = [{"boxes": t["boxes"][:count], "labels": t["labels"][:count]} for t in targets]

    losses = ours(as_batch(images), as_targets(few), want={LOSSES}).losses
    sum(losses.values()).backward()

    assert all(torch.isfinite(value) for value in losses.values())
    assert [n for n, p in ours.named_parameters() if p.grad is None] == []


def test_the_same_seed_gives_the_same_losses_and_another_draws_other_anchors(
    make_inputs, as_batch, as_targets
):
    _, ours = make_pair(proposal_samples=16, region_samples=16)
    images, targets = make_inputs()

    def losses_at(seed):
        torch.manual_seed(seed)
        with torch.no_grad():
            return ours(as_batch(images), as_targets(targets), want={LOSSES}).losses

    ours.eval()
    assert losses_at(3) == losses_at(3)
    assert losses_at(3) != losses_at(4)


def test_losses_are_float32_under_autocast(make_inputs, as_batch, as_targets):
    _, ours = make_pair()
    images, targets = make_inputs()
    ours.eval()

    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(5)
        low = ours(as_batch(images), as_targets(targets), want={LOSSES}).losses
    with torch.no_grad():
        torch.manual_seed(5)
        full = ours(as_batch(images), as_targets(targets), want={LOSSES}).losses

    assert {value.dtype for value in low.values()} == {torch.float32}
    for name, value in low.items():
        torch.testing.assert_close(value, full[name], rtol=0.1, atol=0.05)


def test_a_bundle_gives_the_same_detections(tmp_path, make_inputs, as_batch):
    _, ours = make_pair(test_proposals=50)
    ours.eval()
    images, _ = make_inputs()

    save_detector(ours, tmp_path / "bundle")
    loaded = load_detector(tmp_path / "bundle")

    with torch.no_grad():
        before = ours(as_batch(images), want={DETECTIONS}).detections
        after = loaded(as_batch(images), want={DETECTIONS}).detections
    assert all(torch.equal(b.boxes, a.boxes) for b, a in zip(before, after, strict=True))


def test_it_learns_one_image_by_heart():
    torch.manual_seed(0)
    detector = FasterRCNN(
        ClassList(("a", "b")),
        backbone="torchvision/resnet18",
        backbone_levels=("C3", "C4"),
        neck_channels=32,
        anchor_scale=4.0,
        region_channels=64,
        region_canonical_size=64,
        train_proposals=50,
        region_samples=64,
    )
    detector.freeze_batch_norm()
    pixels = torch.full((3, 96, 96), 0.4)
    pixels[:, 10:42, 20:60] = torch.tensor([1.0, 0.2, 0.2])[:, None, None]
    pixels[:, 60:88, 50:90] = torch.tensor([0.1, 0.3, 1.0])[:, None, None]
    batch = ImageBatch(
        pixels=pixels[None],
        sizes=torch.tensor([[96, 96]]),
        image_sizes=torch.tensor([[96, 96]]),
        image_to_batch=torch.eye(3, dtype=torch.float64)[None],
        image_ids=("only",),
    )
    boxes = torch.tensor([[20.0, 10, 60, 42], [50, 60, 90, 88]])
    targets = [
        Targets(
            boxes=boxes,
            labels=torch.tensor([0, 1]),
            weights=torch.ones(2),
            ignore=torch.zeros(0, 4),
            known_classes=torch.ones(2, dtype=torch.bool),
            origin="human",
        )
    ]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        sum(detector(batch, targets, want={LOSSES}).losses.values()).backward()
        optimizer.step()

    with torch.no_grad():
        found = detector.eval()(batch, want={DETECTIONS}).detections[0].above(0.5)

    order = found.labels.argsort()
    assert found.labels[order].tolist() == [0, 1]
    torch.testing.assert_close(found.boxes[order], boxes, rtol=0, atol=4.0)


def test_a_part_that_is_not_offered_is_refused(make_inputs, as_batch):
    _, ours = make_pair()
    images, _ = make_inputs()

    with pytest.raises(MissingPartError, match="cannot return dense"):
        ours(as_batch(images), want={"dense"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region_layers": 0}, "region_layers is 0. Accepted: 1 or more"),
        ({"test_proposals": 0}, "test_proposals is 0"),
        ({"score_floor": 1.5}, "score_floor is 1.5"),
        ({"anchor_ratios": (1.0, -1.0)}, "anchor_ratios is"),
        ({"unused_columns": (3,)}, r"unused_columns is \[3\]. Accepted: different numbers.*0 to 1"),
        ({"unused_columns": (0, 0)}, "unused_columns"),
    ],
)
def test_options_without_meaning_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FasterRCNN(ClassList(("a",)), backbone="torchvision/resnet18", **options)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_batch_without_any_region_costs_nothing_and_reaches_every_parameter(norm, as_batch):
    detector = FasterRCNN(
        ClassList(("a", "b")),
        backbone="test_efficientnet",
        backbone_levels=("C3", "C4"),
        neck_channels=8,
        anchor_scale=2.0,
        region_convs=1,
        region_norm=norm,
        region_channels=8,
    )
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    nothing_to_learn = Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0),
        ignore=torch.tensor([[0.0, 0, 64, 64]]),
        known_classes=torch.ones(2, dtype=torch.bool),
        origin="human",
    )

    losses = detector(as_batch([image], (64, 64)), [nothing_to_learn], want={LOSSES}).losses
    sum(losses.values()).backward()

    assert (losses["classification"].item(), losses["box"].item()) == (0, 0)
    assert [n for n, p in detector.named_parameters() if p.grad is None] == []


def test_no_given_proposals_give_no_regions(make_inputs, as_batch):
    _, ours = make_pair()
    images, _ = make_inputs()
    nothing = RegionPrediction(
        proposals=(torch.zeros(0, 4),) * 4, features=(), logits=(), box_codes=()
    )

    regions = ours.eval()(as_batch(images), want={REGIONS}, given={REGIONS: nothing}).regions

    assert [tuple(logits.shape) for logits in regions.logits] == [(0, 8)] * 4

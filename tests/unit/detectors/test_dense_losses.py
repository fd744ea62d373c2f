"""Oracle: one anchor or a few, with the focal loss written out by hand."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher

import distildet.detectors.dense_losses as dense_losses_module
from distildet.detectors.dense_losses import dense_losses, match_anchors
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, Targets

MATCHER = Matcher(0.5, 0.4, allow_low_quality_matches=True)
CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
ANCHORS = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])


def make_targets(
    boxes=(), labels=(), weights=None, ignore=(), known=(True, True), origin="teacher", scores=None
):
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        weights=torch.ones(len(labels)) if weights is None else torch.tensor(weights),
        ignore=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
        known_classes=torch.tensor(known),
        origin=origin,
        scores=None if scores is None else torch.tensor(scores),
    )


def losses_of(logits, targets, codes=None):
    prediction = DensePrediction(
        logits=(logits,),
        box_codes=(torch.zeros(*logits.shape[:2], 4) if codes is None else codes,),
        priors=(ANCHORS,),
        activation="sigmoid",
    )
    matched = torch.stack([match_anchors(ANCHORS, target, MATCHER) for target in targets])
    found = dense_losses(prediction, targets, matched, box_coder=CODER, box_loss="l1")
    return {name: value.item() for name, value in found.items()}


# Focal loss, alpha 0.25, gamma 2 (arXiv 1708.02002, eq. 5), at logit 0, so p = 0.5:
POSITIVE = 0.25 * 0.5**2 * math.log(2)
NEGATIVE = 0.75 * 0.5**2 * math.log(2)


def test_background_and_left_out_have_the_numbers_of_the_matcher():
    assert (Matcher.BELOW_LOW_THRESHOLD, Matcher.BETWEEN_THRESHOLDS) == (BACKGROUND, LEFT_OUT)


def test_background_anchors_cost_the_negative_focal_loss_of_every_class():
    assert losses_of(torch.zeros(1, 3, 2), [make_targets()]) == pytest.approx(
        {"classification": 6 * NEGATIVE, "box": 0.0}
    )


def test_a_matched_anchor_costs_one_positive_and_its_other_classes():
    targets = make_targets([[0, 0, 10, 10]], [1])

    assert losses_of(torch.zeros(1, 3, 2), [targets])["classification"] == pytest.approx(
        POSITIVE + 5 * NEGATIVE
    )


def test_a_weight_scales_both_losses_of_its_box_and_not_the_normaliser():
    codes = torch.full((1, 3, 4), 0.5)
    targets = make_targets([[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1], weights=[0.5, 0.0])

    found = losses_of(torch.zeros(1, 3, 2), [targets], codes)

    # Two foreground anchors: the first at half weight, the second at none; one background anchor.
    assert found["classification"] == pytest.approx(
        (0.5 * (POSITIVE + NEGATIVE) + 2 * NEGATIVE) / 2
    )
    assert found["box"] == pytest.approx(0.5 * 4 * 0.5 / 2)


def test_an_ignore_region_takes_its_anchors_out_of_the_loss():
    targets = make_targets(ignore=[[20, 20, 30, 30]])

    found = losses_of(torch.zeros(1, 3, 2), [targets])

    assert found["classification"] == pytest.approx(4 * NEGATIVE)


def test_an_ignore_region_does_not_take_a_matched_anchor():
    targets = make_targets([[0, 0, 10, 10]], [0], ignore=[[0, 0, 10, 9]])

    matched = match_anchors(ANCHORS, targets, MATCHER)

    assert matched.tolist() == [0, BACKGROUND, BACKGROUND]


def test_the_best_anchor_of_a_small_ignore_region_is_left_out():
    targets = make_targets(ignore=[[42, 42, 45, 45]])

    assert match_anchors(ANCHORS, targets, MATCHER).tolist() == [BACKGROUND, BACKGROUND, LEFT_OUT]


@pytest.mark.parametrize(
    ("origin", "third"), [("human", LEFT_OUT), ("teacher", BACKGROUND)], ids=["crowd", "unsure"]
)
def test_only_a_crowd_takes_every_anchor_that_lies_half_inside(origin, third):
    # The region overlaps the second anchor best, IoU 100 / 625, and half of the third lies in it.
    targets = make_targets(ignore=[[20, 20, 45, 50]], origin=origin)

    matched = match_anchors(ANCHORS, targets, MATCHER)

    assert matched[2] == third
    assert matched[0] == BACKGROUND


def test_unknown_classes_add_nothing():
    targets = make_targets([[0, 0, 10, 10]], [0], known=(True, False))

    assert losses_of(torch.zeros(1, 3, 2), [targets])["classification"] == pytest.approx(
        POSITIVE + 2 * NEGATIVE
    )


# At p = 0.5 and s = 0.8: weight 0.25 * 0.8 + 0.75 * 0.2, (s - p)^2, cross-entropy log 2.
SOFT = 0.35 * 0.3**2 * math.log(2)


def test_a_score_is_the_target_of_its_class_and_changes_nothing_else():
    codes = torch.full((1, 3, 4), 0.5)
    boxes = [[0, 0, 10, 10], [20, 20, 30, 30]]

    found = losses_of(torch.zeros(1, 3, 2), [make_targets(boxes, [0, 1], scores=[0.8, 0.5])], codes)

    # The second box is met at p = s; two other classes of the boxes, two of the third anchor.
    assert found["classification"] == pytest.approx((SOFT + 4 * NEGATIVE) / 2)
    assert (
        found["box"] == losses_of(torch.zeros(1, 3, 2), [make_targets(boxes, [0, 1])], codes)["box"]
    )


def test_scores_of_one_give_the_losses_without_scores():
    logits = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0))
    boxes, labels = [[0, 0, 10, 10], [20, 20, 30, 30]], [0, 1]

    hard = losses_of(logits, [make_targets(boxes, labels, weights=[0.5, 1.0])])
    soft = losses_of(logits, [make_targets(boxes, labels, weights=[0.5, 1.0], scores=[1.0, 1.0])])

    assert soft == hard


def test_a_human_and_a_soft_image_share_a_batch():
    box = [[0, 0, 10, 10]]
    targets = [make_targets(box, [1], origin="human"), make_targets(box, [1], scores=[0.8])]

    found = losses_of(torch.zeros(2, 3, 2), targets)

    assert found["classification"] == pytest.approx((POSITIVE + SOFT + 10 * NEGATIVE) / 2)


def test_a_score_of_an_unknown_class_adds_nothing():
    targets = make_targets([[0, 0, 10, 10]], [1], scores=[0.8], known=(True, False))

    found = losses_of(torch.zeros(1, 3, 2), [targets])

    assert found["classification"] == pytest.approx(3 * NEGATIVE)


@pytest.mark.parametrize(("logit", "sign"), [(-2.0, -1.0), (2.0, 1.0)])
def test_the_gradient_leads_to_the_score_from_either_side(logit, sign):
    logits = torch.full((1, 3, 2), logit, requires_grad=True)
    targets = [make_targets([[0, 0, 10, 10]], [0], scores=[0.5])]
    prediction = DensePrediction(
        logits=(logits,),
        box_codes=(torch.zeros(1, 3, 4),),
        priors=(ANCHORS,),
        activation="sigmoid",
    )
    matched = torch.stack([match_anchors(ANCHORS, target, MATCHER) for target in targets])

    losses = dense_losses(prediction, targets, matched, box_coder=CODER, box_loss="l1")
    losses["classification"].backward()

    assert logits.grad[0, 0, 0].sign() == sign
    # All else is background.
    assert (logits.grad.flatten()[1:] > 0).all()


def test_duplicating_the_batch_keeps_the_value():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 2, generator=generator)
    codes = torch.randn(2, 3, 4, generator=generator)
    targets = [make_targets([[1, 1, 11, 11]], [1]), make_targets()]

    once = losses_of(logits, targets, codes)
    twice = losses_of(logits.repeat(2, 1, 1), targets * 2, codes.repeat(2, 1, 1))

    assert once == pytest.approx(twice)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_logits_stay_finite(extreme):
    found = losses_of(torch.full((1, 3, 2), extreme), [make_targets([[0, 0, 10, 10]], [0])])

    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("quality", [True, False])
@pytest.mark.parametrize("origin", ["human", "teacher"])
def test_many_boxes_are_matched_in_pieces_as_at_once(monkeypatch, quality, origin):
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(400, 2, generator=generator) * 60
    anchors = torch.cat([low, low + 4 + 20 * torch.rand(400, 2, generator=generator)], dim=1)
    boxes = anchors[::13] + torch.tensor([1.0, 2.0, 0.0, 3.0])
    targets = make_targets(
        boxes.tolist(), [0] * len(boxes), ignore=anchors[5::17].tolist(), origin=origin
    )
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=quality)
    at_once = match_anchors(anchors, targets, matcher)

    monkeypatch.setattr(dense_losses_module, "MOST_PAIRS", 300)
    in_pieces = match_anchors(anchors, targets, matcher)

    assert torch.equal(in_pieces, at_once)
    assert {BACKGROUND, LEFT_OUT, 3} <= set(at_once.tolist())

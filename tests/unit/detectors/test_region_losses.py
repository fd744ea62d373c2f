"""Oracle: a few anchors or regions, with the losses written out by hand."""

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher

from distildet.detectors.balanced_sampler import BalancedSampler
from distildet.detectors.region_losses import (
    SampledRegions,
    proposal_losses,
    region_losses,
    sample_regions,
)
from distildet.structures import LEFT_OUT, DensePrediction, RegionPrediction, Targets

ANCHORS = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])
CODER = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
PROPOSAL_MATCHER = Matcher(0.7, 0.3, allow_low_quality_matches=True)
REGION_MATCHER = Matcher(0.5, 0.5)
EVERYTHING = BalancedSampler(number=100, foreground_share=0.5)


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


def proposal_losses_of(targets, logits=(0.0, 0.0, 0.0), sampler=EVERYTHING):
    prediction = DensePrediction(
        logits=(torch.tensor(logits).reshape(1, 3, 1),),
        box_codes=(torch.full((1, 3, 4), 1.0),),
        priors=(ANCHORS,),
        activation="sigmoid",
    )
    found = proposal_losses(
        prediction,
        [targets],
        matcher=PROPOSAL_MATCHER,
        sampler=sampler,
        generators=[torch.Generator()],
        box_coder=CODER,
    )
    return {name: value.item() for name, value in found.items()}


# Binary cross-entropy at logit 0 is log 2 for either target. Smooth L1 (beta 1/9) of codes that
# are off by 1 in each of four numbers:
BOX = 4 * (1 - 0.5 / 9)


def test_objectness_is_the_mean_over_the_drawn_anchors():
    targets = make_targets([[0, 0, 10, 10]], [1])

    found = proposal_losses_of(targets, logits=(2.0, -1.0, 0.0))

    expected = (math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log(2)) / 3
    assert found == pytest.approx({"objectness": expected, "proposal_box": BOX / 3})


def test_a_weight_scales_the_proposal_losses_of_its_box_and_not_the_normaliser():
    targets = make_targets([[0, 0, 10, 10]], [1], weights=[0.25])

    assert proposal_losses_of(targets) == pytest.approx(
        {"objectness": 2.25 * math.log(2) / 3, "proposal_box": 0.25 * BOX / 3}
    )


@pytest.mark.parametrize("origin", ["teacher", "human"])
def test_an_ignored_anchor_is_not_drawn(origin):
    targets = make_targets(ignore=[[20, 20, 30, 30]], origin=origin)

    found = proposal_losses_of(targets, logits=(0.0, 50.0, 0.0))

    assert found == pytest.approx({"objectness": math.log(2), "proposal_box": 0.0})


def test_no_anchor_is_background_where_a_class_was_not_looked_for():
    targets = make_targets([[0, 0, 10, 10]], [1], known=(False, True))

    found = proposal_losses_of(targets, logits=(0.0, 50.0, 50.0))

    assert found["objectness"] == pytest.approx(math.log(2))


def test_a_score_does_not_change_the_proposal_losses():
    soft = make_targets([[0, 0, 10, 10]], [1], scores=[0.25])
    hard = make_targets([[0, 0, 10, 10]], [1])

    assert proposal_losses_of(soft) == proposal_losses_of(hard)


def test_nothing_drawn_costs_nothing():
    assert proposal_losses_of(make_targets(known=(False, True))) == {
        "objectness": 0.0,
        "proposal_box": 0.0,
    }


def region_losses_of(targets, logits, matched, regions=ANCHORS):
    prediction = RegionPrediction(
        proposals=(regions,),
        features=(torch.zeros(len(regions), 1, 1, 1),),
        logits=(torch.tensor(logits),),
        box_codes=(torch.full((len(regions), 2, 4), 1.0),),
    )
    sampled = [SampledRegions(boxes=regions, matched=torch.tensor(matched))]
    found = region_losses(prediction, sampled, [targets], columns=(0, 1), box_coder=CODER)
    return {name: value.item() for name, value in found.items()}


EVEN = [[0.0, 0.0, 0.0]] * 3  # each of background, class 0, class 1 has probability 1/3


def test_classification_is_the_mean_cross_entropy_of_the_drawn_regions():
    targets = make_targets([[0, 0, 10, 10]], [1])

    found = region_losses_of(targets, [[0.0, 0.0, 2.0], *EVEN[1:]], [0, -1, -1])

    named = math.log(2 + math.exp(2)) - 2
    assert found == pytest.approx({"classification": (named + 2 * math.log(3)) / 3, "box": BOX / 3})


def test_a_weight_scales_the_region_losses_of_its_box():
    targets = make_targets([[0, 0, 10, 10]], [1], weights=[0.5])

    assert region_losses_of(targets, EVEN, [0, -1, -1]) == pytest.approx(
        {"classification": 2.5 * math.log(3) / 3, "box": 0.5 * BOX / 3}
    )


def log_softmax(logits, column):
    return logits[column] - math.log(sum(math.exp(value) for value in logits))


LOGITS = [0.5, -1.0, 2.0]  # of background, class 0, class 1


def test_a_score_is_shared_out_between_the_class_and_the_background():
    targets = make_targets([[0, 0, 10, 10]], [1], scores=[0.8])

    found = region_losses_of(targets, [LOGITS, *EVEN[1:]], [0, -1, -1])

    named = -0.8 * log_softmax(LOGITS, 2) - 0.2 * log_softmax(LOGITS, 0)
    assert found == pytest.approx({"classification": (named + 2 * math.log(3)) / 3, "box": BOX / 3})


def test_a_weight_multiplies_both_shares_of_a_score():
    targets = make_targets([[0, 0, 10, 10]], [1], weights=[0.5], scores=[0.8])

    found = region_losses_of(targets, [LOGITS, *EVEN[1:]], [0, -1, -1])

    named = -0.8 * log_softmax(LOGITS, 2) - 0.2 * log_softmax(LOGITS, 0)
    assert found["classification"] == pytest.approx((0.5 * named + 2 * math.log(3)) / 3)


def test_what_a_score_leaves_may_be_of_a_class_that_nobody_looked_for():
    targets = make_targets([[0, 0, 10, 10]], [1], scores=[0.8], known=(False, True))

    found = region_losses_of(targets, EVEN, [0, -1, -1])

    # The class has 1/3, background or class 0 has 2/3.
    named = 0.8 * math.log(3) - 0.2 * math.log(2 / 3)
    assert found["classification"] == pytest.approx((named - 2 * math.log(2 / 3)) / 3)


def test_scores_of_one_give_the_region_losses_without_scores():
    logits = [[1e4, 0.0, -1e4], LOGITS, *EVEN[1:2]]
    hard = make_targets([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 0])
    soft = make_targets([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 0], scores=[1.0, 1.0])

    assert region_losses_of(soft, logits, [0, 1, -1]) == region_losses_of(hard, logits, [0, 1, -1])


def test_the_region_loss_is_least_where_the_class_has_its_score():
    # One region, its class at probability p, the background at the rest, class 0 at next to none.
    targets = make_targets([[0, 0, 10, 10]], [1], scores=[0.8])
    logits = torch.tensor([[0.0, -100.0, math.log(0.8 / 0.2)]], requires_grad=True)
    prediction = RegionPrediction(
        proposals=(ANCHORS[:1],),
        features=(torch.zeros(1, 1, 1, 1),),
        logits=(logits,),
        box_codes=(torch.zeros(1, 2, 4),),
    )
    sampled = [SampledRegions(boxes=ANCHORS[:1], matched=torch.tensor([0]))]

    losses = region_losses(prediction, sampled, [targets], columns=(0, 1), box_coder=CODER)
    losses["classification"].backward()

    assert logits.grad.abs().max() < 1e-6


def test_a_background_region_may_be_of_a_class_that_nobody_looked_for():
    targets = make_targets(known=(True, False))

    found = region_losses_of(targets, EVEN, [-1, -1, -1])

    # Background or class 1: 2/3.
    assert found["classification"] == pytest.approx(-math.log(2 / 3))


def test_an_unknown_class_that_is_predicted_costs_nothing():
    targets = make_targets(known=(True, False))

    found = region_losses_of(targets, [[-1e4, -1e4, 1e4]] * 3, [-1, -1, -1])

    assert found["classification"] == pytest.approx(0.0)


def test_losses_of_huge_logits_are_finite():
    targets = make_targets([[0, 0, 10, 10]], [1])

    found = region_losses_of(targets, [[1e4, 0.0, -1e4], *EVEN[1:]], [0, -1, -1])

    assert found["classification"] == pytest.approx((2e4 + 2 * math.log(3)) / 3)


def test_an_undecided_region_adds_nothing_and_is_not_counted():
    # The same three regions as without it, by hand above; its logits and codes are far off.
    targets = make_targets([[0, 0, 10, 10]], [1], weights=[0.5])
    regions = torch.cat([ANCHORS, torch.tensor([[60.0, 60, 70, 70]])])

    found = region_losses_of(targets, [*EVEN, [50.0, -50.0, 0.0]], [0, -1, -1, LEFT_OUT], regions)

    assert found == pytest.approx({"classification": 2.5 * math.log(3) / 3, "box": 0.5 * BOX / 3})


def test_target_boxes_are_among_the_regions_and_ignored_ones_are_not():
    proposals = torch.tensor([[0.0, 0, 10, 9], [20, 20, 30, 30], [40, 40, 50, 50]])
    targets = make_targets([[0, 0, 10, 10]], [1], ignore=[[20, 20, 30, 29]])

    (sampled,) = sample_regions(
        [proposals],
        [targets],
        matcher=REGION_MATCHER,
        sampler=EVERYTHING,
        generators=[torch.Generator()],
    )

    assert sampled.boxes.tolist() == [[0, 0, 10, 9], [40, 40, 50, 50], [0, 0, 10, 10]]
    assert sampled.matched.tolist() == [0, -1, 0]


def test_an_image_without_proposals_or_boxes_gives_no_regions():
    (sampled,) = sample_regions(
        [torch.zeros(0, 4)],
        [make_targets(ignore=[[0, 0, 5, 5]])],
        matcher=REGION_MATCHER,
        sampler=EVERYTHING,
        generators=[torch.Generator()],
    )

    assert sampled.boxes.shape == (0, 4)


def test_at_most_the_foreground_share_is_drawn_as_foreground():
    proposals = ANCHORS[:1].repeat(50, 1)
    others = torch.tensor([[60.0, 60, 70, 70]]).repeat(50, 1)

    (sampled,) = sample_regions(
        [torch.cat([proposals, others])],
        [make_targets([[0, 0, 10, 10]], [0])],
        matcher=REGION_MATCHER,
        sampler=BalancedSampler(number=16, foreground_share=0.25),
        generators=[torch.Generator()],
    )

    assert (sampled.matched >= 0).sum() == 4
    assert len(sampled.matched) == 16


@pytest.mark.parametrize(("origin", "undecided"), [("teacher", [[20, 20, 30, 30]]), ("human", [])])
def test_undecided_regions_are_those_on_ignore_regions_of_a_teacher(origin, undecided):
    # On the ignore region by 0.9, beside it, on the target box.
    proposals = torch.tensor([[20.0, 20, 30, 30], [40, 40, 50, 50], [0, 0, 10, 9]])
    targets = make_targets([[0, 0, 10, 10]], [1], ignore=[[20, 20, 30, 29]], origin=origin)

    (sampled,) = sample_regions(
        [proposals],
        [targets],
        matcher=REGION_MATCHER,
        sampler=EVERYTHING,
        generators=[torch.Generator()],
        with_undecided=True,
    )

    assert sampled.learned.tolist() == [[40, 40, 50, 50], [0, 0, 10, 9], [0, 0, 10, 10]]
    assert sampled.undecided.tolist() == undecided
    assert sampled.boxes.tolist() == sampled.learned.tolist() + undecided
    assert sampled.matched.tolist() == [-1, 0, 0] + [LEFT_OUT] * len(undecided)


def test_undecided_regions_come_after_the_same_others_in_at_most_their_share():
    starts = torch.arange(150.0)[:, None] / 50
    # Fifty a place, each a little elsewhere: on the box, on the ignore region, on neither.
    proposals = torch.tensor([[0.0, 0, 20, 20], [40, 40, 60, 60], [80, 80, 100, 100]])
    proposals = proposals.repeat_interleave(50, dim=0) + starts % 1

    def sampled(**settings):
        return sample_regions(
            [proposals],
            [make_targets([[0, 0, 20, 20]], [0], ignore=[[40, 40, 60, 60]])],
            matcher=REGION_MATCHER,
            sampler=BalancedSampler(number=16, foreground_share=0.25),
            generators=[torch.Generator().manual_seed(0)],
            **settings,
        )[0]

    without, found = sampled(), sampled(with_undecided=True)

    assert len(without.boxes) == 16
    assert torch.equal(found.boxes[:16], without.boxes)
    assert torch.equal(found.matched[:16], without.matched)
    assert found.matched[16:].tolist() == [LEFT_OUT] * 4
    assert ((found.boxes[16:] >= 40) & (found.boxes[16:] < 61)).all()

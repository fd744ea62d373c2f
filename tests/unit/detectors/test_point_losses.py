"""Oracles: a few locations by hand, and the paper's formulas in plain loops over locations."""

import math
from dataclasses import replace

import pytest
import torch
from torchvision.models.detection._utils import BoxLinearCoder

from distildet.detectors.point_losses import centerness, match_points, point_losses
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, Targets

CODER = BoxLinearCoder(normalize_by_size=True)
RADIUS = 1.5
NUM_CLASSES = 3


def grid(stride, columns, rows):
    """Squares of one stride around the points (0, 0), (stride, 0), ... row by row."""
    points = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).flip(1) * stride
    return torch.cat([points - stride / 2, points + stride / 2], dim=1)


# 64 x 64 pixels: 8 x 8 points of stride 8 and 4 x 4 points of stride 16.
PRIORS = (grid(8, 8, 8), grid(16, 4, 4))


def make_targets(
    boxes=(),
    labels=None,
    weights=None,
    ignore=(),
    known=(True,) * NUM_CLASSES,
    origin="teacher",
    scores=None,
):
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor([0] * len(boxes) if labels is None else labels, dtype=torch.int64),
        weights=torch.tensor([1.0] * len(boxes) if weights is None else weights),
        ignore=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
        known_classes=torch.tensor(known),
        origin=origin,
        scores=None if scores is None else torch.tensor(scores),
    )


def matched_points(targets, priors=PRIORS, radius=RADIUS):
    """The points that are not background: (x, y, stride) -> index of the box, or LEFT_OUT."""
    matched = match_points(priors, targets, center_radius=radius).tolist()
    squares = torch.cat(priors).tolist()
    return {
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1): index
        for (x1, y1, x2, y2), index in zip(squares, matched, strict=True)
        if index != BACKGROUND
    }


def only_stride_8(*points, index=0):
    return {(x, y, 8.0): index for x, y in points}


# Matching


def test_a_box_has_the_points_strictly_inside_near_its_centre():
    # The points at 16 and 32 lie on its sides; the centre (24, 24) is a point.
    assert matched_points(make_targets([[16, 16, 32, 32]])) == only_stride_8((24, 24))


def test_points_of_a_large_box_far_from_its_centre_are_background():
    # Centre (28, 28), radius 12 px: 24 and 32 are 4 away, 16 and 40 exactly 12 away.
    found = matched_points(make_targets([[8, 8, 48, 48]]), priors=PRIORS[:1])

    assert found == only_stride_8((24, 24), (32, 24), (24, 32), (32, 32))


def test_the_radius_is_counted_in_strides():
    found = matched_points(make_targets([[8, 8, 48, 48]]), priors=PRIORS[:1], radius=0.51)
    wider = matched_points(make_targets([[8, 8, 48, 48]]), priors=PRIORS[:1], radius=1.51)

    # 4.08 px around (28, 28) and 12.08 px, which takes in 16 and 40 in both directions.
    assert len(found) == 4
    assert len(wider) == 16


def test_the_smallest_of_the_boxes_that_claim_a_point_has_it():
    large, small = [4, 4, 44, 44], [14, 14, 34, 34]

    assert matched_points(make_targets([large, small]))[(24, 24, 8)] == 1
    assert matched_points(make_targets([small, large]))[(24, 24, 8)] == 0


def test_the_first_of_equally_small_boxes_has_the_point():
    box, shifted = [14, 14, 34, 34], [15, 14, 35, 34]

    assert set(matched_points(make_targets([box, shifted, box])).values()) == {0}
    assert matched_points(make_targets([shifted, box]))[(24, 24, 8)] == 0


@pytest.mark.parametrize(
    ("larger", "smaller"),
    [
        # torchvision's rank in float32, 1e8 - area, is equal for 400 and 398 px^2 ...
        ([14, 14, 34, 34], [14, 14, 33.9, 34]),
        # ... and below its floor for boxes above 1e8 px^2.
        ([-9e4, -9e4, 9e4, 9e4], [-8e4, -8e4, 8e4, 8e4]),
    ],
    ids=["almost equal", "above 1e8"],
)
def test_areas_are_compared_exactly(larger, smaller):
    assert set(matched_points(make_targets([larger, smaller])).values()) == {1}


@pytest.mark.parametrize(
    ("half", "strides"),
    [
        (28, {8}),  # farthest side 28..36 px, below 8 strides of level 0
        (63, {8}),  # 63 px, below 64; of stride 16 it lies below the 4 strides
        (64, set()),  # 64 px is on the border of both levels, which is of neither
        (65, {16}),
        (1000, {16}),  # the last level has no end
    ],
)
def test_each_level_has_its_range_of_distances(half, strides):
    # Radius 0.1: only the point (32, 32) of each level is near the centre.
    box = [32 - half, 32 - half, 32 + half, 32 + half]

    found = matched_points(make_targets([box]), radius=0.1)

    assert {stride for _, _, stride in found} == strides


def test_a_level_between_has_distances_of_4_to_8_of_its_strides():
    priors = (*PRIORS, grid(32, 2, 2))
    boxes = [[32 - half, 32 - half, 32 + half, 32 + half] for half in (63, 65, 127, 129)]

    found = [matched_points(make_targets([box]), priors, radius=0.1) for box in boxes]

    assert [{stride for _, _, stride in points} for points in found] == [{8}, {16}, {16}, {32}]


def test_a_single_level_has_every_distance():
    found = matched_points(make_targets([[-5000, -5000, 5050, 5050]]), PRIORS[1:])

    assert found != {}


@pytest.mark.parametrize(
    "box",
    [[24, 16, 24, 32], [24, 24, 24, 24], [34, 34, 14, 14], [-50, -50, -10, -10], [90, 0, 120, 30]],
    ids=["no width", "a point", "turned over", "left of the image", "right of the image"],
)
def test_a_box_without_points_inside_is_background_and_leaves_losses_finite(box):
    targets = make_targets([box])

    losses = losses_of(make_prediction(1), [targets])

    assert matched_points(targets) == {}
    assert losses["box"] == losses["quality"] == 0
    assert math.isfinite(losses["classification"])


# Ignore regions


def test_every_point_inside_a_crowd_is_left_out_on_every_level():
    found = matched_points(make_targets(ignore=[[0, 0, 30, 20]], origin="human"))

    # Strictly inside: x of 8, 16, 24 and y of 8, 16 at stride 8; (16, 16) at stride 16.
    inside = only_stride_8((8, 8), (16, 8), (24, 8), (8, 16), (16, 16), (24, 16), index=LEFT_OUT)
    assert found == inside | {(16, 16, 16): LEFT_OUT}


def test_an_unsure_object_leaves_out_the_points_that_it_would_have_as_a_box():
    region = [8, 8, 48, 48]

    as_box = matched_points(make_targets([region]))
    as_region = matched_points(make_targets(ignore=[region]))

    assert len(as_box) > 0
    assert as_region == dict.fromkeys(as_box, LEFT_OUT)


@pytest.mark.parametrize("origin", ["human", "teacher"])
def test_an_ignore_region_does_not_take_the_points_of_a_box(origin):
    # The region is smaller than the box, and as a box would have the point.
    targets = make_targets([[12, 12, 36, 36]], ignore=[[20, 20, 28, 28]], origin=origin)

    assert matched_points(targets)[(24, 24, 8)] == 0


# Centre-ness


@pytest.mark.parametrize(
    ("distances", "expected"),
    [
        ([3, 5, 3, 5], 1.0),
        ([1, 1, 4, 9], 1 / 6),  # sqrt(1/4 * 1/9)
        ([2, 3, 8, 3], 0.5),  # sqrt(2/8 * 1)
        ([0, 1, 4, 1], 0.0),
        ([0, 2, 0, 2], 0.0),  # no width: the longer distance is 0
        ([0, 0, 0, 0], 0.0),
        ([-1, 2, 5, 2], 0.0),
        ([-3, -3, -1, -1], 0.0),
    ],
)
def test_centerness_by_hand(distances, expected):
    found = centerness(torch.tensor([distances], dtype=torch.float32))

    assert found.tolist() == pytest.approx([expected])


# Losses


def make_prediction(images, seed=0):
    generator = torch.Generator().manual_seed(seed)
    counts = [len(squares) for squares in PRIORS]

    def noise(*shape):
        return torch.randn(*shape, generator=generator)

    return DensePrediction(
        logits=tuple(noise(images, count, NUM_CLASSES) for count in counts),
        box_codes=tuple(noise(images, count, 4).relu() * 3 for count in counts),
        priors=PRIORS,
        activation="sigmoid",
        quality_logits=tuple(noise(images, count) for count in counts),
    )


def losses_of_matched(prediction, targets):
    matched = [match_points(prediction.priors, t, center_radius=RADIUS) for t in targets]
    return point_losses(prediction, targets, torch.stack(matched), box_coder=CODER)


def losses_of(prediction, targets):
    found = losses_of_matched(prediction, targets)
    return {name: value.item() for name, value in found.items()}


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def claims(box, x, y, stride, level):
    """Section 3 of arXiv 2006.09214: inside, near the centre, in the range of the level."""
    x1, y1, x2, y2 = box
    reach = max(x - x1, y - y1, x2 - x, y2 - y)
    off_center = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
    low, high = (0, 8 * stride) if level == 0 else (4 * stride, math.inf)
    is_inside = x1 < x < x2 and y1 < y < y2
    return is_inside and off_center < RADIUS * stride and low < reach < high


def focal(logit, wanted):
    p = sigmoid(logit)
    if wanted == 1:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    if wanted == 0:
        return -0.75 * p**2 * math.log(1 - p)
    cross_entropy = -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)
    return (0.25 * wanted + 0.75 * (1 - wanted)) * (wanted - p) ** 2 * cross_entropy


def giou_loss(a, b):
    inside = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inside
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return 1 - inside / union + (hull - union) / hull


def location_terms(target, level, square, logits, codes, quality):
    """Return (is foreground, focal, box and centre-ness term) of one location."""
    x, y, stride = (square[0] + square[2]) / 2, (square[1] + square[3]) / 2, square[2] - square[0]
    boxes, regions = target.boxes.tolist(), target.ignore.tolist()
    own = [i for i, box in enumerate(boxes) if claims(box, x, y, stride, level)]
    known = [k for k, is_known in enumerate(target.known_classes.tolist()) if is_known]
    if not own:
        for region in regions:
            is_inside = region[0] < x < region[2] and region[1] < y < region[3]
            if is_inside if target.origin == "human" else claims(region, x, y, stride, level):
                return 0, 0.0, 0.0, 0.0
        return 0, sum(focal(logits[k], wanted=0) for k in known), 0.0, 0.0
    best = min(own, key=lambda i: (boxes[i][2] - boxes[i][0]) * (boxes[i][3] - boxes[i][1]))
    (x1, y1, x2, y2), weight = boxes[best], target.weights[best].item()
    label = target.labels[best].item()
    score = 1 if target.scores is None else target.scores[best].item()
    predicted = [
        x - codes[0] * stride,
        y - codes[1] * stride,
        x + codes[2] * stride,
        y + codes[3] * stride,
    ]
    wide, high = sorted((x - x1, x2 - x)), sorted((y - y1, y2 - y))
    central = math.sqrt(wide[0] / wide[1] * high[0] / high[1])
    q = sigmoid(quality)
    return (
        1,
        weight * sum(focal(logits[k], wanted=score if k == label else 0) for k in known),
        weight * giou_loss(predicted, boxes[best]),
        -weight * (central * math.log(q) + (1 - central) * math.log(1 - q)),
    )


def losses_by_loops(prediction, targets):
    sums = [0.0, 0.0, 0.0, 0.0]
    for i, target in enumerate(targets):
        for level, squares in enumerate(prediction.priors):
            for n, square in enumerate(squares.tolist()):
                terms = location_terms(
                    target,
                    level,
                    square,
                    prediction.logits[level][i, n].tolist(),
                    prediction.box_codes[level][i, n].tolist(),
                    prediction.quality_logits[level][i, n].item(),
                )
                sums = [total + term for total, term in zip(sums, terms, strict=True)]
    foreground, *parts = sums
    return {
        name: part / max(1, foreground)
        for name, part in zip(("classification", "box", "quality"), parts, strict=True)
    }


# Overlapping boxes and one of the second level; an image without boxes between.
PLAIN = [
    make_targets([[3, 2, 40, 37], [10, 11, 27, 29], [-40, -41, 110, 107]], [0, 2, 1]),
    make_targets(),
    make_targets([[30, 34, 61, 59]], [1]),
]
REGIONS = torch.tensor([[33.0, 3, 62, 30], [5, 41, 26, 63]])


def changed(**fields):
    return [replace(target, **fields) for target in PLAIN]


SOFT = [replace(t, scores=torch.tensor([0.5, 0.9, 0.2])[: len(t.boxes)]) for t in PLAIN]
CERTAIN = [replace(t, scores=torch.ones(len(t.boxes))) for t in PLAIN]
WEIGHTED = [replace(t, weights=torch.tensor([0.5, 2.0, 0.0])[: len(t.boxes)]) for t in PLAIN]


@pytest.mark.parametrize(
    "targets",
    [
        PLAIN,
        WEIGHTED,
        SOFT,
        [replace(PLAIN[0], origin="human"), *SOFT[1:]],
        changed(ignore=REGIONS, origin="human"),
        changed(ignore=REGIONS, origin="teacher"),
        changed(known_classes=torch.tensor([True, False, True])),
        [make_targets()] * 3,
    ],
    ids=[
        *("plain", "weights", "scores", "a human and soft images"),
        *("crowd", "unsure", "unknown class", "no boxes"),
    ],
)
def test_losses_equal_the_formulas_in_loops(targets):
    prediction = make_prediction(3)

    assert losses_of(prediction, targets) == pytest.approx(
        losses_by_loops(prediction, targets), rel=1e-5
    )


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (WEIGHTED, {"classification", "box", "quality"}),
        (SOFT, {"classification"}),
        (changed(ignore=REGIONS, origin="human"), {"classification"}),
        (changed(ignore=REGIONS, origin="teacher"), {"classification"}),
        (changed(known_classes=torch.tensor([True, False, True])), {"classification"}),
    ],
    ids=["weights", "scores", "crowd", "unsure", "unknown class"],
)
def test_each_field_of_the_targets_changes_its_losses_only(targets, parts):
    prediction = make_prediction(3)

    plain, found = losses_of(prediction, PLAIN), losses_of(prediction, targets)

    assert {name for name in found if found[name] != pytest.approx(plain[name])} == parts


def test_scores_of_one_give_the_losses_without_scores():
    assert losses_of(make_prediction(3), CERTAIN) == losses_of(make_prediction(3), PLAIN)


def test_the_gradient_leads_to_the_score_from_either_side():
    # One location of a box, at p = 0.88 and at 0.12 of the two classes that it could have.
    logits = torch.tensor([[2.0, -2.0, 0.0]]).repeat(1, len(PRIORS[0]), 1).requires_grad_()
    prediction = DensePrediction(
        logits=(logits,),
        box_codes=(torch.ones(1, len(PRIORS[0]), 4),),
        priors=PRIORS[:1],
        activation="sigmoid",
        quality_logits=(torch.zeros(1, len(PRIORS[0])),),
    )
    boxes = [[16, 16, 32, 32], [40, 40, 56, 56]]  # around the points (24, 24) and (48, 48)

    losses_of_matched(prediction, [make_targets(boxes, [0, 1], scores=[0.5, 0.5])])[
        "classification"
    ].backward()

    gradient = logits.grad.reshape(8, 8, NUM_CLASSES)
    assert gradient[3, 3, 0] > 0
    assert gradient[6, 6, 1] < 0


def test_a_weight_does_not_change_the_normaliser():
    one = [make_targets([[16, 16, 32, 32]], weights=[1.0])]
    half = [make_targets([[16, 16, 32, 32]], weights=[0.5])]
    prediction = make_prediction(1)

    whole, less = losses_of(prediction, one), losses_of(prediction, half)

    assert less["box"] == pytest.approx(whole["box"] / 2)
    assert less["quality"] == pytest.approx(whole["quality"] / 2)


def test_duplicating_the_batch_keeps_the_value():
    prediction = make_prediction(3)
    doubled = replace(
        prediction,
        logits=tuple(value.repeat(2, 1, 1) for value in prediction.logits),
        box_codes=tuple(value.repeat(2, 1, 1) for value in prediction.box_codes),
        quality_logits=tuple(value.repeat(2, 1) for value in prediction.quality_logits),
    )

    assert losses_of(doubled, PLAIN * 2) == pytest.approx(losses_of(prediction, PLAIN))


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_extreme_predictions_have_finite_losses_and_gradients(extreme):
    leaves = [torch.full((1, len(PRIORS[0]), width), extreme) for width in (NUM_CLASSES, 4, 1)]
    logits, codes, quality = (leaf.requires_grad_() for leaf in leaves)
    prediction = DensePrediction(
        logits=(logits,),
        box_codes=(codes.relu(),),
        priors=PRIORS[:1],
        activation="sigmoid",
        quality_logits=(quality.squeeze(-1),),
    )

    losses = losses_of_matched(prediction, [make_targets([[3, 2, 40, 37]])])
    sum(losses.values()).backward()

    assert all(value.isfinite() for value in losses.values())
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


def test_half_precision_predictions_have_float32_losses():
    exact = make_prediction(3)
    rounded = DensePrediction(
        logits=tuple(value.bfloat16() for value in exact.logits),
        box_codes=tuple(value.bfloat16() for value in exact.box_codes),
        priors=PRIORS,
        activation="sigmoid",
        quality_logits=tuple(value.bfloat16() for value in exact.quality_logits),
    )

    losses = losses_of_matched(rounded, PLAIN)

    assert {value.dtype for value in losses.values()} == {torch.float32}
    assert {name: v.item() for name, v in losses.items()} == pytest.approx(
        losses_of(exact, PLAIN), rel=0.02
    )


def test_a_prediction_without_quality_is_refused():
    prediction = replace(make_prediction(3), quality_logits=None)

    with pytest.raises(ValueError, match="need a prediction with quality logits"):
        losses_of_matched(prediction, PLAIN)

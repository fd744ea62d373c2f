"""Oracles: values by hand, a loop over images, priors and classes in float64."""

import math
from dataclasses import replace

import pytest
import torch

from distildet.classes import ClassList
from distildet.errors import ClassMapError, ConfigError, MissingPartError
from distildet.losses.adaptive import Adaptive
from distildet.losses.base import misfit
from distildet.ops.reduce import add_up, counting, with_totals
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, DetectorOutput, Targets

ANCHORS = {"anchor_scale": 4.0, "anchor_octaves": 3, "neck_channels": 8}


@pytest.fixture
def dense_spec(spec_of):
    def make(classes="ab", levels=("P3",), **changes):
        spec = spec_of(dict.fromkeys(levels, 4), parts=("dense", "losses"))
        return replace(spec, classes=ClassList(tuple(classes)), **changes)

    return make


def priors_at(*centers):
    """Squares of 8 pixels around centres (x, y)."""
    return torch.tensor([[x - 4.0, y - 4.0, x + 4.0, y + 4.0] for x, y in centers])


def dense_output(*logits, priors=None, activation="sigmoid", matched=None):
    """Outputs of levels; by default every prior stands at (0, 0)."""
    priors = priors or tuple(torch.zeros(level.shape[1], 4) for level in logits)
    return DetectorOutput(
        dense=DensePrediction(
            logits=logits,
            box_codes=tuple(torch.zeros(*level.shape[:2], 4) for level in logits),
            priors=priors,
            activation=activation,
            matched_labels=None if matched is None else tuple(map(torch.tensor, matched)),
        )
    )


def target(*ignore, origin="human", known=(True, True)):
    return Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0),
        ignore=torch.tensor(ignore).reshape(-1, 4),
        known_classes=torch.tensor(known),
        origin=origin,
    )


def targets_of(*images):
    return [target(*ignore) for ignore in images]


def naive(pairs, *, images, form="paper", beta=1.0, gamma=2.0, theta=1.8):
    """The loss of (student's logit, teacher's logit) pairs, one after the other."""
    value = mass = 0.0
    for own, guide in pairs:
        p, q = 1 / (1 + math.exp(-own)), 1 / (1 + math.exp(-guide))
        kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
        entropy = -(q * math.log(q) + (1 - q) * math.log(1 - q))
        weight = (1 - math.exp(-(kl + beta * entropy))) ** gamma
        value += weight * (kl if form == "paper" else (kl + entropy) / 2)
        mass += q**theta
    return value / max(mass, images)


def test_the_value_by_hand(dense_spec, batch_of):
    # p = 3/4, q = 1/2: KL 0.143841, T 0.693147, weight 0.321475 each, of 4 priors; with theta 1
    # the normaliser is 4 / 2 = 2.
    loss = Adaptive(dense_spec("a"), dense_spec("a"), theta=1.0)
    student = dense_output(torch.full((1, 4, 1), math.log(3)))
    teacher = dense_output(torch.zeros(1, 4, 1))

    parts = loss(student, teacher, batch_of(((16, 16),), (16, 16)), targets_of([]))

    assert parts.keys() == {"classification"}
    assert parts["classification"].item() == pytest.approx(4 * 0.321475 * 0.143841 / 2, rel=1e-5)


def test_where_the_teacher_sees_nothing_the_normaliser_is_1_an_image(dense_spec, batch_of):
    # q = 1e-4, p = 1/2, gamma 0: KL = log 2 - T = 0.692126 each; 2 images, 3 priors each.
    loss = Adaptive(dense_spec("a"), dense_spec("a"), gamma=0.0)
    teacher = dense_output(torch.full((2, 3, 1), math.log(1e-4 / (1 - 1e-4))))
    batch = batch_of(((16, 16),) * 2, (16, 16))

    value = loss(dense_output(torch.zeros(2, 3, 1)), teacher, batch, targets_of([], []))

    assert value["classification"].item() == pytest.approx(3 * 0.692126, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"form": "official"},
        {"form": "official", "beta": 0.0, "gamma": 1.0, "theta": 1.0},
        {"beta": 0.5, "gamma": 3.0, "theta": 0.0},
    ],
)
def test_the_value_equals_a_loop_over_the_priors_on_the_image(dense_spec, batch_of, options):
    # The centres of the second image's priors: on it, right of it, below it, on its last row,
    # and left of every image.
    torch.manual_seed(0)
    student, teacher = 2 * torch.randn(2, 2, 5, 2)
    priors = priors_at((0, 0), (20, 4), (4, 9), (19, 8), (-1, 4))
    batch = batch_of(((24, 32), (9, 20)), (24, 32))
    shown = [(0, 0), (0, 1), (0, 2), (0, 3), (1, 0), (1, 3)]
    pairs = [(student[b, n, k], teacher[b, n, k]) for b, n in shown for k in range(2)]

    value = Adaptive(dense_spec(), dense_spec(), **options)(
        dense_output(student, priors=(priors,)),
        dense_output(teacher, priors=(priors,)),
        batch,
        targets_of([], []),
    )["classification"]

    assert value.item() == pytest.approx(naive(pairs, images=2, **options), rel=1e-5)


def test_the_levels_are_added_up(dense_spec, batch_of):
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 1, 6, 2)
    spec, batch = dense_spec(levels=("P3", "P4")), batch_of(((16, 16),), (16, 16))

    whole = Adaptive(dense_spec(), dense_spec())(
        dense_output(student), dense_output(teacher), batch, targets_of([])
    )
    parts = Adaptive(spec, spec)(
        dense_output(student[:, :5], student[:, 5:]),
        dense_output(teacher[:, :5], teacher[:, 5:]),
        batch,
        targets_of([]),
    )

    assert parts["classification"].item() == pytest.approx(whole["classification"].item())


def test_classes_meet_by_name_and_others_take_no_part(dense_spec, batch_of):
    # Student: dog 0.5, Car 1.0, cat -1.0; teacher: car 2.0, ship 9.0, cat -2.0.
    loss = Adaptive(dense_spec(("dog", "Car", "cat")), dense_spec(("car", "ship", "cat")))
    student = torch.tensor([[[0.5, 1.0, -1.0]]], requires_grad=True)
    teacher = dense_output(torch.tensor([[[2.0, 9.0, -2.0]]]))

    value = loss(dense_output(student), teacher, batch_of(((8, 8),), (8, 8)), targets_of([]))
    value["classification"].backward()

    expected = naive([(1.0, 2.0), (-1.0, -2.0)], images=1)
    assert value["classification"].item() == pytest.approx(expected, rel=1e-5)
    assert student.grad.ne(0).tolist() == [[[False, True, True]]]


@pytest.mark.parametrize(
    ("origin", "taking_part"), [("human", [0, 2, 3]), ("teacher", [0, 1, 2, 3])]
)
def test_priors_inside_ignore_regions_of_humans_take_no_part(
    dense_spec, batch_of, origin, taking_part
):
    # The second centre lies inside one of the regions, the last two on borders of the other.
    priors = (priors_at((2, 2), (8, 8), (20, 4), (30, 4)),)
    student = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
    teacher = torch.tensor([[[1.0], [-1.0], [0.5], [1.0]]])
    regions = [6.0, 6.0, 9.0, 9.0], [20.0, 0.0, 30.0, 8.0]

    value = Adaptive(dense_spec("a"), dense_spec("a"))(
        dense_output(student, priors=priors),
        dense_output(teacher, priors=priors),
        batch_of(((24, 32),), (24, 32)),
        [target(*regions, origin=origin)],
    )["classification"]

    pairs = [(student[0, n, 0], teacher[0, n, 0]) for n in taking_part]
    assert value.item() == pytest.approx(naive(pairs, images=1), rel=1e-5)


def test_an_image_that_is_ignored_as_a_whole_gives_0_with_a_graph(dense_spec, batch_of):
    student = torch.ones(1, 2, 2, requires_grad=True)

    value = Adaptive(dense_spec(), dense_spec())(
        dense_output(student),
        dense_output(torch.zeros(1, 2, 2)),
        batch_of(((8, 8),), (8, 8)),
        targets_of([[-1.0, -1.0, 8.0, 8.0]]),
    )["classification"]
    value.backward()

    assert value.item() == 0
    assert not student.grad.any()


@pytest.mark.parametrize(("form", "expected"), [("paper", 0.0), ("official", 0.5**2 / 2)])
def test_the_value_where_both_are_equal(dense_spec, batch_of, form, expected):
    # q = 1/2, T = log 2: weight (1 - 1/2)^2, times log 2 / 2 in the form "official"; theta 0.
    loss = Adaptive(dense_spec(), dense_spec(), form=form, theta=0.0)
    output = dense_output(torch.zeros(1, 5, 2))

    value = loss(output, output, batch_of(((8, 8),), (8, 8)), targets_of([]))["classification"]

    assert value.item() == pytest.approx(expected * math.log(2), rel=1e-5)


@pytest.mark.parametrize("form", ["paper", "official"])
def test_the_mean_over_parts_of_a_batch_is_the_value_of_the_whole(dense_spec, batch_of, form):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 3, 40, 2)
    loss = Adaptive(dense_spec(), dense_spec(), form=form)
    batch, targets = batch_of(((8, 8),) * 3, (8, 8)), targets_of([], [], [])

    def value(start, stop):
        part = slice(start, stop)
        outputs = dense_output(student[part]), dense_output(teacher[part])
        return loss(*outputs, batch.part(start, stop), targets[part])["classification"]

    with counting(2 / 3) as first:
        value(0, 2)
    with counting(1 / 3) as second:
        value(2, 3)
    totals = add_up([first, second])
    with with_totals(2 / 3, totals):
        mean = value(0, 2) * 2 / 3
    with with_totals(1 / 3, totals):
        mean += value(2, 3) / 3

    assert mean.item() == pytest.approx(value(0, 3).item(), rel=1e-5)


def test_the_teacher_gets_no_gradient_and_the_normaliser_gives_none(dense_spec, batch_of):
    student = torch.zeros(1, 4, 2, requires_grad=True)
    teacher = torch.ones(1, 4, 2, requires_grad=True)

    value = Adaptive(dense_spec(), dense_spec())(
        dense_output(student), dense_output(teacher), batch_of(((8, 8),), (8, 8)), targets_of([])
    )
    value["classification"].backward()

    assert student.grad.all()
    assert teacher.grad is None


def test_half_precision_logits_are_compared_in_float32(dense_spec, batch_of):
    # 70 000 priors of one class: their sum is beyond the largest float16, 65 504.
    student = torch.full((1, 70_000, 1), -4.0, dtype=torch.float16)
    teacher = torch.full((1, 70_000, 1), 4.0, dtype=torch.float16)

    value = Adaptive(dense_spec("a"), dense_spec("a"))(
        dense_output(student), dense_output(teacher), batch_of(((8, 8),), (8, 8)), targets_of([])
    )["classification"]

    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(naive([(-4.0, 4.0)] * 2, images=1), rel=1e-5)


def test_what_follows_from_the_class_lists_is_not_in_the_checkpoint(dense_spec):
    assert Adaptive(dense_spec(), dense_spec()).state_dict() == {}


# Priors of one image, matched to: the second class, background, nothing, the first class in the
# padding. Beside them the KL of p = 3/4 from q = 1/2.
MATCHED = ([[1, BACKGROUND, LEFT_OUT, 0]],)
PLACES = ((0, 0), (4, 0), (8, 0), (20, 0))
KL = math.log(4 / 3) / 2


@pytest.fixture
def value_of(dense_spec, batch_of):
    """The loss of four priors and two classes, p = 3/4 and q = 1/2 each, in a 16 x 16 image."""

    def compute(known=(True, True), origin="teacher", **options):
        priors = (priors_at(*PLACES),)
        value = Adaptive(dense_spec(), dense_spec(), **options)(
            dense_output(torch.full((1, 4, 2), math.log(3)), priors=priors, matched=MATCHED),
            dense_output(torch.zeros(1, 4, 2), priors=priors),
            batch_of(((16, 16),), (24, 32)),
            [target(known=known, origin=origin)],
        )
        return value["classification"].item()

    return compute


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # Three priors of two classes, mass 6 / 2 = 3.
        ({"gamma": 0.0, "theta": 1.0}, 6 * KL / 3),
        # One positive prior on the image.
        ({"gamma": 0.0, "normaliser": "positives"}, 6 * KL),
        ({"beta": 0.0, "theta": 1.0}, 6 * (1 - 0.75**0.5) ** 2 * KL / 3),
        # One object, and three that are none, of the two priors with a label: mass 4 / 2.
        ({"form": "focal", "theta": 1.0}, ((1 / 4) ** 2 + 3 * (3 / 4) ** 2) * KL / 2),
        # Of the positive prior, mass 2 with theta 0.
        ({"gamma": 0.0, "priors": "positive", "theta": 0.0}, 2 * KL / 2),
        ({"priors": "positive", "theta": 0.0}, 2 * 0.321475 * KL / 2),
        ({"normaliser": "positives"}, 6 * 0.321475 * KL),
    ],
)
def test_the_options_for_comparisons_by_hand(value_of, options, expected):
    assert value_of(**options) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("origin", "priors"), [("human", 2), ("teacher", 3)])
@pytest.mark.parametrize(("gamma", "weight"), [(2.0, 0.321475), (0.0, 1.0)])
def test_priors_that_the_matching_to_a_humans_boxes_leaves_out_take_no_part(
    value_of, origin, priors, gamma, weight
):
    # Of two classes each, and theta 0: the sum over priors is divided by their number.
    value = value_of(origin=origin, gamma=gamma, normaliser="positives")
    mass = value_of(origin=origin, gamma=gamma, theta=0.0)

    assert value == pytest.approx(2 * priors * weight * KL, rel=1e-4)
    assert mass == pytest.approx(weight * KL, rel=1e-4)


def test_the_form_focal_needs_classes_that_somebody_looked_for(value_of):
    # Of the first class two priors that are no object, mass 2 / 2.
    value = value_of(known=(True, False), form="focal", theta=1.0)

    assert value == pytest.approx(2 * (3 / 4) ** 2 * KL, rel=1e-5)


def test_objects_of_the_form_focal_are_of_the_students_classes(dense_spec, batch_of):
    # The second class of the student is the first of the teacher; its prior is matched to it.
    loss = Adaptive(dense_spec("xb"), dense_spec("by"), form="focal", normaliser="positives")
    student = dense_output(torch.full((1, 1, 2), math.log(3)), matched=([[1]],))
    teacher = dense_output(torch.tensor([[[0.0, 9.0]]]))

    value = loss(student, teacher, batch_of(((8, 8),), (8, 8)), targets_of([]))

    assert value["classification"].item() == pytest.approx((1 / 4) ** 2 * KL, rel=1e-5)


def test_positive_priors_are_those_of_classes_that_are_compared(dense_spec, batch_of):
    # Of the student's classes a and b the teacher knows b alone; four priors are matched to a.
    loss = Adaptive(dense_spec("ab"), dense_spec("bz"), gamma=0.0, normaliser="positives")
    student = dense_output(torch.full((1, 5, 2), math.log(3)), matched=([[0, 0, 0, 0, 1]],))
    teacher = dense_output(torch.zeros(1, 5, 2))

    value = loss(student, teacher, batch_of(((8, 8),), (8, 8)), [target(origin="teacher")])

    assert value["classification"].item() == pytest.approx(5 * KL, rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"form": "focal"}, {"priors": "positive"}, {"normaliser": "positives"}]
)
def test_without_a_positive_prior_the_value_is_finite_with_a_graph(dense_spec, batch_of, options):
    student = torch.ones(2, 1, 2, requires_grad=True)
    output = dense_output(student, matched=([[BACKGROUND], [LEFT_OUT]],))

    value = Adaptive(dense_spec(), dense_spec(), **options)(
        output,
        dense_output(torch.zeros(2, 1, 2)),
        batch_of(((8, 8),) * 2, (8, 8)),
        targets_of([], []),
    )["classification"]
    value.backward()

    assert value.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    "options", [{"form": "focal"}, {"priors": "positive"}, {"normaliser": "positives"}]
)
def test_options_that_read_boxes_need_matched_priors(dense_spec, batch_of, options):
    output = dense_output(torch.zeros(1, 5, 2))

    with pytest.raises(ValueError, match="needs the student's priors matched to boxes"):
        Adaptive(dense_spec(), dense_spec(), **options)(
            output, output, batch_of(((8, 8),), (8, 8)), targets_of([])
        )


def test_options_that_have_nothing_to_do_with_priors_may_differ(dense_spec):
    student = dense_spec(options=ANCHORS)
    # A recipe gives the anchor scale as 4.0, Python code may have given 4.
    teacher = dense_spec(options={**ANCHORS, "neck_channels": 256, "anchor_scale": 4})

    assert misfit("adaptive", student, teacher, {}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"levels": ("P3", "P4")},
            r"their priors differ\. The student has levels P3 \(stride 8\); the teacher has levels "
            r"P3 \(stride 8\), P4 \(stride 16\)\. Accepted: a student of the teacher's family with "
            r"its levels \(backbone_levels, extra_levels\) and anchors\.$",
        ),
        (
            {"options": {**ANCHORS, "anchor_scale": 8.0, "anchor_octaves": 1}},
            r"The student has anchor_scale 4\.0, anchor_octaves 3; the teacher has "
            r"anchor_scale 8\.0, anchor_octaves 1\.",
        ),
        (
            {"options": {**ANCHORS, "anchor_ratios": [1.0]}},
            r"has anchor_ratios not given; the teacher has anchor_ratios \[1\.0\]\.",
        ),
        (
            {"family": "fcos", "options": {}},
            r"The student has family tiny; the teacher has family fcos\. ",
        ),
    ],
)
def test_pairs_with_other_priors_are_refused(dense_spec, changes, message):
    teacher = {"options": ANCHORS, **changes}

    with pytest.raises(ConfigError, match=message):
        Adaptive(dense_spec(options=ANCHORS), dense_spec(**teacher))


def test_a_detector_without_a_dense_head_is_refused(dense_spec, spec_of):
    with pytest.raises(MissingPartError, match=r"teacher 'tiny' does not have dense"):
        Adaptive(dense_spec(), spec_of({"P3": 4}))


def test_class_lists_without_a_common_name_are_refused(dense_spec):
    with pytest.raises(
        ClassMapError, match=r"no class of the same name\. The student has a, b; the teacher has c"
    ):
        Adaptive(dense_spec("ab"), dense_spec("c"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "papre"}, r"form: found 'papre'\. Accepted: focal, official, paper\. Did you"),
        ({"priors": "some"}, r"priors: found 'some'\. Accepted: all, positive\."),
        ({"normaliser": "n"}, r"normaliser: found 'n'\. Accepted: mass, positives\."),
        (
            {"form": "a", "gamma": -1.0},
            r"form: found 'a'.*\ngamma: found -1\.0\. Accepted",
        ),
        ({"beta": -0.1}, r"beta: found -0\.1\. Accepted: a finite number of 0 or more\."),
        ({"gamma": math.inf}, r"gamma: found inf\."),
        ({"theta": math.nan}, r"theta: found nan\."),
    ],
)
def test_options_without_a_meaning_are_refused(dense_spec, options, message):
    with pytest.raises(ConfigError, match=message):
        Adaptive(dense_spec(), dense_spec(), **options)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (
            dense_output(torch.zeros(1, 4, 2), torch.zeros(1, 2, 2)),
            r"loss 'adaptive': the student has \[4, 2\] priors on its levels, the teacher \[4\]",
        ),
        (
            dense_output(torch.zeros(1, 5, 2)),
            r"loss 'adaptive': the student has \[5\] priors",
        ),
        (
            dense_output(torch.zeros(1, 4, 2), activation="softmax"),
            r"the activation of the student's logits is softmax, of the teacher's sigmoid\. Acc",
        ),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(dense_spec, batch_of, student, message):
    with pytest.raises(ConfigError, match=message):
        Adaptive(dense_spec(), dense_spec())(
            student,
            dense_output(torch.zeros(1, 4, 2)),
            batch_of(((8, 8),), (8, 8)),
            targets_of([]),
        )


def test_outputs_without_the_part_are_refused(dense_spec, batch_of):
    with pytest.raises(ValueError, match=r"needs the part 'dense' of student and teacher"):
        Adaptive(dense_spec(), dense_spec())(
            DetectorOutput(), DetectorOutput(), batch_of(((8, 8),), (8, 8)), targets_of([])
        )

"""The loss of region heads. Oracles: values by hand, a loop over regions and columns."""

import math
from dataclasses import replace

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.errors import ClassMapError, ConfigError, MissingPartError
from distildet.losses.adaptive import Adaptive
from distildet.losses.base import misfit
from distildet.ops.reduce import add_up, counting, with_totals
from distildet.structures import DetectorOutput, RegionPrediction, Targets


@pytest.fixture
def region_spec(spec_of):
    def make(classes="ab", **changes):
        spec = spec_of({"P3": 4}, parts=("regions", "features.neck"), family="faster_rcnn")
        return replace(spec, head="region", classes=ClassList(tuple(classes)), **changes)

    return make


@pytest.fixture
def dense_spec(spec_of):
    return spec_of({"P3": 4}, parts=("dense", "features.neck"), family="retinanet")


def regions_at(*centers):
    """Squares of 8 pixels around centres (x, y)."""
    return torch.tensor([[x - 4.0, y - 4.0, x + 4.0, y + 4.0] for x, y in centers]).reshape(-1, 4)


def region_output(*logits, proposals=None):
    """Outputs of images; by default every region is at (0, 0)."""
    proposals = proposals or tuple(torch.zeros(len(one), 4) for one in logits)
    return DetectorOutput(
        regions=RegionPrediction(
            proposals=proposals,
            features=tuple(torch.zeros(len(one), 1, 1, 1) for one in logits),
            logits=logits,
            box_codes=tuple(torch.zeros(len(one), one.shape[1] - 1, 4) for one in logits),
        )
    )


def target(*ignore, origin="human"):
    return Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0),
        ignore=torch.tensor(ignore).reshape(-1, 4),
        known_classes=torch.ones(2, dtype=torch.bool),
        origin=origin,
    )


def softmax(logits):
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def naive(pairs, *, form="paper", beta=1.0, gamma=2.0):
    """The loss of (student's logits, teacher's logits) of regions, one after the other."""
    value = 0.0
    for own, guide in pairs:
        p, q = softmax(own), softmax(guide)
        kl = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        entropy = -sum(b * math.log(b) for b in q) / math.log(len(q)) * math.log(2)
        weight = (1 - math.exp(-(kl + beta * entropy))) ** gamma
        value += weight * (kl if form == "paper" else (kl + entropy) / 2)
    return value / max(len(pairs), 1)


def test_the_value_by_hand(region_spec, batch_of):
    # Background or the class. p = 3/4, q = 1/2: KL 0.143841, T 0.693147, weight 0.321475 each, of
    # 4 regions.
    loss = Adaptive(region_spec("a"), region_spec("a"))
    student = region_output(torch.tensor([[0.0, math.log(3)]] * 4))

    parts = loss(student, region_output(torch.zeros(4, 2)), batch_of(((8, 8),), (8, 8)), [target()])

    assert parts.keys() == {"classification"}
    assert parts["classification"].item() == pytest.approx(0.321475 * 0.143841, rel=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"form": "official"}, {"beta": 0.5, "gamma": 3.0}],
)
def test_the_value_equals_a_loop_over_the_regions_of_all_images(region_spec, batch_of, options):
    # Five regions, none, and two.
    torch.manual_seed(0)
    student, teacher = ([2 * torch.randn(n, 3) for n in (5, 0, 2)] for _ in range(2))
    pairs = list(zip(torch.cat(student).tolist(), torch.cat(teacher).tolist(), strict=True))

    value = Adaptive(region_spec(), region_spec(), **options)(
        region_output(*student),
        region_output(*teacher),
        batch_of(((8, 8),) * 3, (8, 8)),
        [target()] * 3,
    )["classification"]

    assert value.item() == pytest.approx(naive(pairs, **options), rel=1e-5)


def test_the_normaliser_is_the_number_of_regions_that_take_part_and_at_least_1_an_image(
    region_spec, batch_of
):
    # q = 1e-4, p = 1/2, gamma 0: KL = log 2 - T = 0.692126 each. Of the regions at (2, 2) and
    # (8, 8) the second is left out by a human in the first image; two images have none.
    loss = Adaptive(region_spec("a"), region_spec("a"), gamma=0.0)
    nothing = torch.tensor([[0.0, math.log(1e-4 / (1 - 1e-4))]])
    regions = regions_at((2, 2), (8, 8)), *[torch.zeros(0, 4)] * 2

    value = loss(
        region_output(torch.zeros(2, 2), *[torch.zeros(0, 2)] * 2, proposals=regions),
        region_output(nothing.repeat(2, 1), *[torch.zeros(0, 2)] * 2, proposals=regions),
        batch_of(((16, 16),) * 3, (16, 16)),
        [target([6.0, 6.0, 9.0, 9.0]), target(), target()],
    )

    assert value["classification"].item() == pytest.approx(0.692126 / 3, rel=1e-5)


def log_sum(*logits):
    return math.log(sum(math.exp(logit) for logit in logits))


def test_classes_meet_by_name_and_others_count_as_background(region_spec, batch_of):
    # Student: background 0.1, dog 0.5, Car 1.0, cat -1.0; teacher: 0.2, car 2.0, ship 9.0, cat -2.0
    loss = Adaptive(region_spec(("dog", "Car", "cat")), region_spec(("car", "ship", "cat")))
    student = torch.tensor([[0.1, 0.5, 1.0, -1.0]], requires_grad=True)
    teacher = region_output(torch.tensor([[0.2, 2.0, 9.0, -2.0]]))

    value = loss(region_output(student), teacher, batch_of(((8, 8),), (8, 8)), [target()])
    value["classification"].backward()

    pair = (log_sum(0.1, 0.5), 1.0, -1.0), (log_sum(0.2, 9.0), 2.0, -2.0)
    expected = naive([pair])
    assert value["classification"].item() == pytest.approx(expected, rel=1e-5)
    assert student.grad.ne(0).tolist() == [[True, True, True, True]]


@pytest.mark.parametrize(("origin", "taking_part"), [("human", [0, 2]), ("teacher", [0, 1, 2])])
def test_regions_inside_ignore_regions_of_humans_take_no_part(
    region_spec, batch_of, origin, taking_part
):
    # The second centre of the second image lies inside its ignore region.
    proposals = regions_at((2, 2)), regions_at((8, 8), (20, 4))
    student = torch.tensor([[0.0, 1.0], [1.0, 2.0], [3.0, 0.5]])
    teacher = torch.tensor([[1.0, -1.0], [0.5, 1.0], [0.0, 2.0]])

    value = Adaptive(region_spec("a"), region_spec("a"))(
        region_output(*student.split([1, 2]), proposals=proposals),
        region_output(*teacher.split([1, 2]), proposals=proposals),
        batch_of(((24, 32),) * 2, (24, 32)),
        [target(), target([6.0, 6.0, 9.0, 9.0], origin=origin)],
    )["classification"]

    pairs = [(student[n].tolist(), teacher[n].tolist()) for n in taking_part]
    assert value.item() == pytest.approx(naive(pairs), rel=1e-5)


def test_images_without_any_region_give_0_with_a_graph(region_spec, batch_of):
    student = torch.zeros(0, 3, requires_grad=True)

    value = Adaptive(region_spec(), region_spec())(
        region_output(student),
        region_output(torch.zeros(0, 3)),
        batch_of(((8, 8),), (8, 8)),
        [target()],
    )["classification"]
    value.backward()

    assert value.item() == 0


def test_the_mean_over_parts_of_a_batch_is_the_value_of_the_whole(region_spec, batch_of):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 3, 20, 3)
    loss = Adaptive(region_spec(), region_spec())
    batch = batch_of(((8, 8),) * 3, (8, 8))

    def value(start, stop):
        outputs = region_output(*student[start:stop]), region_output(*teacher[start:stop])
        targets = [target()] * (stop - start)
        return loss(*outputs, batch.part(start, stop), targets)["classification"]

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


def test_a_pair_with_regions_needs_them_of_both_and_gives_the_teacher_the_students(region_spec):
    needs = Adaptive(region_spec(), region_spec()).needs

    assert needs.student == needs.teacher == needs.given == {"regions"}


def test_pyramids_and_anchors_of_region_heads_may_differ(region_spec):
    student = region_spec(options={"anchor_scale": 4.0})
    teacher = region_spec(options={"anchor_scale": 8.0}, levels=())

    assert misfit("adaptive", student, teacher, {}) is None


def test_a_dense_and_a_region_head_are_refused_with_what_fits(region_spec, dense_spec):
    message = misfit("adaptive", dense_spec, region_spec(), {})

    assert message == (
        "loss 'adaptive' does not fit this pair: the student 'retinanet' has a dense head, the "
        "teacher 'faster_rcnn' a region head. Accepted: dense heads of the same family, or region "
        "heads, on both sides. With their default options these losses fit this pair: "
        "feature-imitation, foreground-imitation, global-knowledge, hands-on-guidance."
    )


def test_a_dense_teacher_of_a_student_with_regions_is_refused(region_spec, dense_spec):
    with pytest.raises(MissingPartError, match="'faster_rcnn' has a region head, the teacher 'ret"):
        Adaptive(region_spec(), dense_spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "focal"}, r"^form: found 'focal', between region heads\..*: form: paper or off"),
        ({"priors": "positive"}, r"^priors: found 'positive', between region.*: priors: all\.$"),
        ({"theta": 1.0}, r"^theta: found 1\.0, between region heads\..* Leave theta out\.$"),
        (
            {"form": "focal", "normaliser": "positives"},
            r"^form: found 'focal', normaliser: found 'positives', between.* normaliser: mass\.$",
        ),
    ],
)
def test_options_that_compare_losses_of_dense_heads_are_refused(region_spec, options, message):
    with pytest.raises(ConfigError, match=message):
        Adaptive(region_spec(), region_spec(), **options)


def test_class_lists_without_a_common_name_are_refused(region_spec):
    with pytest.raises(ClassMapError, match=r"no class of the same name\. The student has a, b"):
        Adaptive(region_spec("ab"), region_spec("c"))


@pytest.mark.parametrize(
    "teacher",
    [
        region_output(torch.zeros(1, 3), proposals=(regions_at((9, 9)),)),
        region_output(torch.zeros(2, 3)),
        region_output(torch.zeros(1, 3), torch.zeros(1, 3)),
    ],
)
def test_a_teacher_that_judged_other_regions_is_refused(region_spec, batch_of, teacher):
    with pytest.raises(ValueError, match=r"other regions than the student\. Give it the student's"):
        Adaptive(region_spec(), region_spec())(
            region_output(torch.zeros(1, 3)), teacher, batch_of(((8, 8),), (8, 8)), [target()]
        )


def test_outputs_without_the_part_are_refused(region_spec, batch_of):
    with pytest.raises(ValueError, match=r"needs the part 'regions' of student and teacher"):
        Adaptive(region_spec(), region_spec())(
            DetectorOutput(), DetectorOutput(), batch_of(((8, 8),), (8, 8)), [target()]
        )


def test_of_two_detectors_it_counts_regions_about_which_pseudo_labels_are_undecided(batch_of):
    torch.manual_seed(0)
    student, teacher = (
        FasterRCNN(
            ClassList(("a", "b")),
            backbone="test_efficientnet",
            backbone_levels=("C3", "C4"),
            neck_channels=8,
            anchor_scale=2.0,
            region_channels=8,
            region_samples=8,
        ).eval()
        for _ in range(2)
    )
    batch = batch_of(((64, 64),) * 2, (64, 64))
    batch.pixels.uniform_()
    ignore = [[x, y, x + 16.0, y + 16.0] for x in (0.0, 8.0, 16.0) for y in (0.0, 16.0, 32.0)]
    targets = [target(*ignore, origin="teacher")] * 2
    own = student(batch, targets, want={"losses", "regions"})
    guide = teacher(batch, want={"regions"}, given={"regions": own.regions})

    value = Adaptive(student.spec, teacher.spec)(own, guide, batch, targets)["classification"]

    own_logits, guide_logits = (torch.cat(one.regions.logits).tolist() for one in (own, guide))
    assert len(own_logits) == 2 * (8 + 2)  # 2 = int(8 * 0.25) undecided ones an image
    pairs = list(zip(own_logits, guide_logits, strict=True))
    assert value.item() == pytest.approx(naive(pairs), rel=1e-4)

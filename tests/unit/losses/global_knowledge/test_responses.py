"""Oracles: divergences by loops over places and classes in float64, and values by hand."""

import math
from dataclasses import replace

import pytest
import torch

from distildet.classes import ClassList
from distildet.errors import ClassMapError, ConfigError, MissingPartError
from distildet.losses.global_knowledge.responses import Responses
from distildet.structures import BACKGROUND, DensePrediction, DetectorOutput, RegionPrediction

PRIORS = torch.tensor([[8.0 * n, 0.0, 8.0 * n + 8, 8.0] for n in range(4)])


@pytest.fixture
def dense_spec(spec_of):
    def make(*classes, **changes):
        spec = spec_of({"P3": 2}, parts=("dense", "features.neck"), family="retinanet")
        return replace(spec, classes=ClassList(classes), **changes)

    return make


@pytest.fixture
def region_spec(spec_of):
    def make(*classes, **changes):
        spec = spec_of({"P3": 2}, parts=("regions", "features.neck"), family="faster_rcnn")
        return replace(spec, head="region", classes=ClassList(classes), **changes)

    return make


def dense_output(logits, matched=None):
    return DetectorOutput(
        dense=DensePrediction(
            logits=(logits,),
            box_codes=(torch.zeros(*logits.shape[:2], 4),),
            priors=(PRIORS[: logits.shape[1]],),
            activation="sigmoid",
            matched_labels=None if matched is None else (torch.tensor(matched),),
        )
    )


def region_output(*logits):
    """The regions of every image are the first of PRIORS."""
    return DetectorOutput(
        regions=RegionPrediction(
            proposals=tuple(PRIORS[: len(one)] for one in logits),
            features=tuple(torch.zeros(len(one), 1, 1, 1) for one in logits),
            logits=logits,
            box_codes=tuple(torch.zeros(len(one), one.shape[1] - 1, 4) for one in logits),
        )
    )


def boxes(*numbers):
    return [tuple(PRIORS[number].tolist()) for number in numbers]


def binary(own, guide):
    """Sum over classes of the divergence of yes-or-no predictions."""
    value = 0.0
    for one, other in zip(own, guide, strict=True):
        p, q = 1 / (1 + math.exp(-one)), 1 / (1 + math.exp(-other))
        value += q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    return value


def choice(own, guide, temperature=1.0):
    """Divergence of softmax predictions."""
    p, q = ([math.exp(one / temperature) for one in logits] for logits in (own, guide))
    return sum(b / sum(q) * math.log(b / sum(q) / (a / sum(p))) for a, b in zip(p, q, strict=True))


def softened(own, guide):
    """At temperature 2, mean over the columns, times 4."""
    return 4 * choice(own, guide, 2.0) / len(own)


def test_dense_by_hand_in_the_paper(dense_spec, options_of, target_of):
    # One class: p = 3/4, q = 1/2: KL 0.143841. Two priors of objects of reliability 1 and 1/2.
    term = Responses(dense_spec("a"), dense_spec("a"), options_of(variant="paper"))
    student = torch.full((1, 3, 1), math.log(3))

    found = term(
        dense_output(student, [[0, BACKGROUND, 0]]),
        dense_output(torch.zeros(1, 3, 1)),
        [target_of(*boxes(0, 2))],
        torch.tensor([1.0, 0.5]),
    )

    assert found.value.item() == pytest.approx(1.5 * 0.143841, rel=1e-5)
    assert (found.count.item(), found.factor) == (2, 5.0)


def test_officially_dense_by_hand(dense_spec, options_of, target_of):
    # p = 3/4, 1/4 and q = 1/2, 1/2 at temperature 2: KL 0.143841; / 2 classes * 4.
    term = Responses(dense_spec("a", "b"), dense_spec("a", "b"), options_of())
    student = torch.tensor([[[2 * math.log(3), 0.0]]])

    found = term(
        dense_output(student, [[1]]),
        dense_output(torch.zeros(1, 1, 2)),
        [target_of(*boxes(0), labels=[1])],
        torch.tensor([0.5]),
    )

    assert found.value.item() == pytest.approx(0.143841, rel=1e-5)
    assert (found.count.item(), found.factor) == (1, 1.0)


@pytest.mark.parametrize(("variant", "divergence"), [("paper", binary), ("official", softened)])
def test_dense_is_a_loop_over_matched_priors_and_common_classes(
    dense_spec, options_of, target_of, variant, divergence
):
    # The student's dog, Car, cat are to the teacher no class, 2 and 0. Objects 0 1 | - | 2 3, of
    # which the first is a dog.
    torch.manual_seed(0)
    term = Responses(
        dense_spec("dog", "Car", "cat"),
        dense_spec("cat", "ship", "car"),
        options_of(variant=variant),
    )
    student, teacher = 2 * torch.randn(2, 3, 4, 3)
    matched = [[0, 1, BACKGROUND, 1], [BACKGROUND] * 4, [2, 2, 1, BACKGROUND]]
    targets = [
        target_of(*boxes(0, 1), labels=[0, 1]),
        target_of(),
        target_of(*boxes(2, 0), labels=[1, 2]),
    ]
    reliability = torch.tensor([0.9, 0.2, 0.7, 0.4])

    found = term(dense_output(student, matched), dense_output(teacher), targets, reliability)

    # Image, prior, object.
    places = [(0, 1, 1), (0, 3, 1), (2, 0, 3), (2, 1, 3), (2, 2, 2)]
    expected = sum(
        reliability[place].item()
        * divergence(student[image, prior, [1, 2]].tolist(), teacher[image, prior, [2, 0]].tolist())
        for image, prior, place in places
    )
    assert found.value.item() == pytest.approx(expected, rel=1e-5)
    assert found.count.item() == 5


@pytest.mark.parametrize(("variant", "divergence"), [("paper", choice), ("official", softened)])
def test_regions_are_a_loop_over_those_of_objects_others_being_background(
    region_spec, options_of, target_of, variant, divergence
):
    # Objects 0 | - | 1 2: a car, and a dog that the teacher does not know and a cat.
    torch.manual_seed(0)
    term = Responses(
        region_spec("dog", "Car", "cat"),
        region_spec("cat", "ship", "car"),
        options_of(variant=variant),
    )
    student, teacher = ([2 * torch.randn(n, 4) for n in (4, 2, 3)] for _ in range(2))
    targets = [
        target_of(*boxes(2), labels=[1]),
        target_of(),
        target_of(*boxes(0, 1), labels=[0, 2]),
    ]
    reliability = torch.tensor([0.9, 0.2, 0.7])

    found = term(region_output(*student), region_output(*teacher), targets, reliability)

    expected = 0.0
    for image, region, number in ((0, 2, 0), (2, 1, 2)):
        own, guide = student[image][region].tolist(), teacher[image][region].tolist()
        own = [math.log(math.exp(own[0]) + math.exp(own[1])), own[2], own[3]]
        guide = [math.log(math.exp(guide[0]) + math.exp(guide[2])), guide[3], guide[1]]
        expected += reliability[number].item() * divergence(own, guide)
    assert found.value.item() == pytest.approx(expected, rel=1e-5)
    assert found.count.item() == 2


def test_regions_of_one_common_class_are_compared_officially_too(
    region_spec, options_of, target_of
):
    term = Responses(region_spec("a"), region_spec("a"), options_of())
    own, guide = torch.tensor([[0.5, 1.0]]), torch.tensor([[-1.0, 2.0]])

    found = term(region_output(own), region_output(guide), [target_of(*boxes(0))], torch.ones(1))

    assert found.value.item() == pytest.approx(softened([0.5, 1.0], [-1.0, 2.0]), rel=1e-5)


@pytest.mark.parametrize("origin", ["human", "teacher"])
def test_the_student_alone_gets_a_gradient_whoever_drew_the_boxes(
    dense_spec, options_of, target_of, origin
):
    # p - q = 1/4 times the reliability of 1/2, at the matched prior.
    term = Responses(dense_spec("a"), dense_spec("a"), options_of(variant="paper"))
    student = torch.full((1, 2, 1), math.log(3)).requires_grad_()
    teacher = torch.zeros(1, 2, 1, requires_grad=True)

    term(
        dense_output(student, [[0, BACKGROUND]]),
        dense_output(teacher),
        [target_of(*boxes(0), origin=origin)],
        torch.tensor([0.5]),
    ).value.backward()

    assert student.grad.flatten().tolist() == pytest.approx([0.125, 0.0])
    assert teacher.grad is None


def test_without_any_place_it_is_0_with_a_graph(dense_spec, options_of, target_of):
    term = Responses(dense_spec("a"), dense_spec("a"), options_of(variant="paper"))
    student = torch.ones(1, 2, 1, requires_grad=True)

    found = term(
        dense_output(student, [[BACKGROUND] * 2]),
        dense_output(torch.zeros(1, 2, 1)),
        [target_of()],
        torch.zeros(0),
    )
    found.value.backward()

    assert found.value.item() == found.count.item() == 0


def test_dense_needs_its_predictions_and_regions_are_given_to_the_teacher(
    dense_spec, region_spec, options_of
):
    of_priors = Responses(dense_spec("a", "b"), dense_spec("a", "b"), options_of()).needs
    of_regions = Responses(region_spec("a"), region_spec("a"), options_of()).needs

    assert of_priors.student == of_priors.teacher == {"dense"}
    assert of_priors.given == set()
    assert of_regions.student == of_regions.teacher == of_regions.given == {"regions"}


def test_a_dense_and_a_region_head_are_refused(dense_spec, region_spec, options_of):
    with pytest.raises(MissingPartError, match="'retinanet' has a dense head, the teacher 'faste"):
        Responses(dense_spec("a"), region_spec("a"), options_of())


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_class_lists_without_a_common_name_are_refused(dense_spec, options_of, variant):
    with pytest.raises(ClassMapError, match=r"no class of the same name\. The student has a, b"):
        Responses(dense_spec("a", "b"), dense_spec("c"), options_of(variant=variant))


def test_other_priors_are_refused(dense_spec, options_of):
    with pytest.raises(ConfigError, match=r"their priors differ\. The student has anchor_scale 4"):
        Responses(
            dense_spec("a", "b", options={"anchor_scale": 4.0}),
            dense_spec("a", "b", options={"anchor_scale": 8.0}),
            options_of(),
        )


def test_officially_one_common_class_of_dense_heads_is_refused(dense_spec, options_of):
    with pytest.raises(ConfigError, match=r"a softmax .* there is one\. Accepted: variant: paper"):
        Responses(dense_spec("a", "b"), dense_spec("b", "c"), options_of())


@pytest.mark.parametrize(("bare", "role"), [(0, "student"), (1, "teacher")])
def test_a_detector_without_predictions_of_its_head_is_refused(dense_spec, options_of, bare, role):
    specs = [dense_spec("a", "b"), dense_spec("a", "b")]
    specs[bare] = dense_spec("a", "b", parts=frozenset({"features.neck"}))

    with pytest.raises(
        MissingPartError, match=rf"the {role} 'retinanet' does not have dense \(it "
    ):
        Responses(*specs, options_of())


def test_checkpoints_hold_nothing_of_it(dense_spec, options_of):
    assert not Responses(dense_spec("a", "b"), dense_spec("a", "b"), options_of()).state_dict()

"""Oracles: places and objects by hand."""

import pytest
import torch

from distildet.losses.global_knowledge.matched_response import matched_priors, matched_regions
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, RegionPrediction

ALL = torch.tensor([0, 1, 2])


def numbered(*shape, start=0.0):
    """Logits of which each is another number."""
    return start + torch.arange(float(torch.Size(shape).numel())).reshape(shape)


def squares(*lefts, side=8.0):
    return torch.tensor([[left, 0.0, left + side, side] for left in lefts]).reshape(-1, 4)


def dense(priors, matched, logits):
    """Predictions of two levels, the first of two priors."""
    sizes = [2, len(priors) - 2]
    return DensePrediction(
        logits=logits.split(sizes, dim=1),
        box_codes=tuple(torch.zeros(len(logits), size, 4) for size in sizes),
        priors=priors.split(sizes),
        activation="sigmoid",
        matched_labels=None if matched is None else torch.tensor(matched).split(sizes, dim=1),
    )


def regions(proposals, logits):
    return RegionPrediction(
        proposals=proposals,
        features=tuple(torch.zeros(len(one), 1, 1, 1) for one in logits),
        logits=logits,
        box_codes=tuple(torch.zeros(len(one), 2, 4) for one in logits),
    )


def test_priors_are_those_matched_to_a_box_with_the_box_of_their_own_image(target_of):
    # Four priors on two levels, of three images with two, no and three boxes: objects 0 1 | 2 3 4.
    matched = [
        [0, BACKGROUND, LEFT_OUT, 1],
        [BACKGROUND] * 4,
        [BACKGROUND, 2, 0, BACKGROUND],
    ]
    own, guide = numbered(3, 4, 3), numbered(3, 4, 3, start=100)
    priors = squares(0, 8, 16, 24)
    targets = [
        target_of((0, 0, 8, 8), (24, 0, 32, 8), labels=[0, 1]),
        target_of(),
        target_of((0, 0, 8, 8), (8, 0, 15, 8), (16, 0, 25, 8), labels=[0, 2, 0]),
    ]

    found = matched_priors(dense(priors, matched, own), dense(priors, None, guide), targets, ALL)

    places = [(0, 0), (0, 3), (2, 1), (2, 2)]
    assert found.student.tolist() == [own[place].tolist() for place in places]
    assert found.teacher.tolist() == [guide[place].tolist() for place in places]
    assert found.objects.tolist() == [0, 1, 3, 4]


def test_the_object_of_a_prior_is_of_its_label_whatever_overlaps_more(target_of):
    # The second prior is a box of label 0, but matched to label 1: of these the wider lies nearer.
    # The third overlaps no box of its label.
    priors = squares(0, 8, 40)
    targets = [
        target_of((8, 0, 16, 8), (8, 0, 11, 8), (8, 0, 12, 8), (0, 0, 5, 8), labels=[0, 1, 1, 2])
    ]
    predictions = dense(priors, [[2, 1, 2]], numbered(1, 3, 3))

    found = matched_priors(predictions, predictions, targets, ALL)

    assert found.objects.tolist() == [3, 2, 3]


def test_priors_matched_to_a_class_that_is_not_compared_have_no_place(target_of):
    priors = squares(0, 8, 16)
    targets = [target_of((0, 0, 8, 8), (8, 0, 16, 8), labels=[1, 0])]
    predictions = dense(priors, [[1, 0, BACKGROUND]], numbered(1, 3, 2))

    found = matched_priors(predictions, predictions, targets, torch.tensor([0]))

    assert found.student.tolist() == [[2.0, 3.0]]
    assert found.objects.tolist() == [1]


def test_priors_that_nobody_matched_are_refused(target_of):
    predictions = dense(squares(0, 8, 16), None, numbered(1, 3, 2))

    with pytest.raises(
        ValueError, match=r"student's priors matched to boxes\. Call the student wi"
    ):
        matched_priors(predictions, predictions, [target_of()], ALL)


def test_regions_are_those_that_overlap_a_box_by_half_or_more(target_of):
    # With the box 0..8: 8 / 8, 4 / 8, 3.9 / 8, 4 / 12 and nothing of the union.
    proposals = torch.tensor(
        [
            [0.0, 0.0, 8.0, 8.0],
            [0.0, 0.0, 4.0, 8.0],
            [0.0, 0.0, 3.9, 8.0],
            [4.0, 0.0, 12.0, 8.0],
            [16.0, 0.0, 24.0, 8.0],
        ]
    )
    own, guide = numbered(5, 3), numbered(5, 3, start=100)

    found = matched_regions(
        regions((proposals,), (own,)),
        regions((proposals,), (guide,)),
        [target_of((0, 0, 8, 8))],
        ALL,
    )

    assert found.student.tolist() == own[:2].tolist()
    assert found.teacher.tolist() == guide[:2].tolist()
    assert found.objects.tolist() == [0, 0]


def test_the_object_of_a_region_is_the_box_of_its_own_image_that_it_overlaps_most(target_of):
    # Objects 0 | none | 1 2 3. Regions 0..8 overlap 0..7 more than 0..5 and 2..8.
    proposals = squares(16, 0), squares(0), squares(0, 40)
    logits = tuple(numbered(len(one), 3, start=10 * n) for n, one in enumerate(proposals))
    targets = [
        target_of((0, 0, 8, 8)),
        target_of(),
        target_of((0, 0, 5, 8), (0, 0, 7, 8), (2, 0, 8, 8), labels=[0, 1, 0]),
    ]

    found = matched_regions(regions(proposals, logits), regions(proposals, logits), targets, ALL)

    assert found.student.tolist() == [logits[0][1].tolist(), logits[2][0].tolist()]
    assert found.objects.tolist() == [0, 2]


def test_regions_of_a_class_that_is_not_compared_have_no_place(target_of):
    # The first stands for a box of label 1, also if it overlaps another of label 0 by half.
    proposals = (squares(0, 20),)
    targets = [target_of((0, 0, 8, 8), (0, 0, 5, 8), (20, 0, 28, 8), labels=[1, 0, 0])]
    predictions = regions(proposals, (numbered(2, 3),))

    found = matched_regions(predictions, predictions, targets, torch.tensor([0, 2]))

    assert found.student.tolist() == [[3.0, 4.0, 5.0]]
    assert found.objects.tolist() == [2]


def test_without_regions_there_are_no_places(target_of):
    predictions = regions((squares(), squares()), (numbered(0, 3), numbered(0, 3)))

    found = matched_regions(predictions, predictions, [target_of((0, 0, 8, 8)), target_of()], ALL)

    assert found.student.shape == (0, 3)
    assert found.objects.shape == (0,)

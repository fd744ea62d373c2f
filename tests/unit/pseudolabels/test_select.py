from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distildet.classes import ClassList
from distildet.data.dataset import Annotations, Dataset, Sample
from distildet.errors import ConfigError
from distildet.pseudolabels.select import (
    choose_thresholds,
    keep_images,
    score_limits,
    select_targets,
)

CLASSES = ClassList(("cat", "dog"))
SCORES = st.lists(st.floats(0, 1, width=32), max_size=12)
SHARES = st.floats(0, 1)


def labeled_of(*labels_by_image, names=("cat", "dog"), crowd=()) -> Dataset:
    """Return a data set with the labels of each image, None for one that nobody looked at."""
    drawn = [
        None
        if labels is None
        else Annotations(
            boxes=np.tile([0.0, 0.0, 1.0, 1.0], (len(labels), 1)),
            labels=np.array(labels, dtype=np.int64),
            areas=np.ones(len(labels)),
            crowd=np.isin(np.arange(len(labels)), crowd),
        )
        for labels in labels_by_image
    ]
    samples = tuple(
        Sample(id=str(i), path=Path(str(i)), annotations=one) for i, one in enumerate(drawn)
    )
    return Dataset(samples=samples, classes=None if names is None else ClassList(names))


def thresholds_for(stored, threshold="auto", labeled=None, **options):
    return choose_thresholds(stored, CLASSES, threshold=threshold, labeled=labeled, **options)


@pytest.fixture
def ten_cats(labels_of):
    """Ten images; in each a cat, of score 0.1, 0.2 and so on to 1.0."""
    return {str(i): labels_of(scores=[(i + 1) / 10]) for i in range(10)}


@pytest.mark.parametrize("threshold", [0, 0.25, 1])
def test_number_is_the_threshold_of_all_classes(threshold, ten_cats):
    chosen = thresholds_for(ten_cats, threshold)

    assert chosen == {"cat": threshold, "dog": threshold}


def test_classes_without_a_number_take_the_fallback():
    assert thresholds_for({}, {"dog": 0.7}) == {"cat": 0.4, "dog": 0.7}


@pytest.mark.parametrize(
    ("labels_by_image", "expected"),
    [
        # 1 cat in 2 images: 5 of 10 wanted, the fifth best score is 0.6.
        (([0], []), 0.6),
        # 1 cat an image: all 10 wanted, the lowest is 0.1.
        (([0], [0]), 0.1),
        # 1 in 100 images: a tenth of a box in 10 images, of which there is at least one.
        (([0], *[[]] * 99), 1.0),
        # 2 an image: more than were found.
        (([0, 0],), 0.05),
        # Nobody looked at the second image: 1 cat in 1 image.
        (([0], None), 0.1),
    ],
)
def test_auto_gives_as_many_boxes_an_image_as_the_labels_have(labels_by_image, expected, ten_cats):
    chosen = thresholds_for(ten_cats, labeled=labeled_of(*labels_by_image), ignore_floor=0.05)

    assert chosen["cat"] == pytest.approx(expected)
    assert chosen["dog"] == 0.4


def test_auto_does_not_count_crowd_regions(ten_cats):
    labeled = labeled_of([0, 0, 0], [], crowd=(1, 2))

    assert thresholds_for(ten_cats, labeled=labeled)["cat"] == pytest.approx(0.6)


def test_auto_matches_classes_by_name(ten_cats):
    labeled = labeled_of([1], [], names=("horse", "cat"))

    assert thresholds_for(ten_cats, labeled=labeled) == {"cat": pytest.approx(0.6), "dog": 0.4}


def test_auto_looks_at_each_class_for_itself(labels_of):
    stored = {
        "a": labels_of(scores=[0.9, 0.8, 0.7], labels=[1, 0, 1]),
        "b": labels_of(scores=[0.6, 0.5, 0.3], labels=[0, 1, 0]),
    }

    # Cats were found with 0.8, 0.6 and 0.3, dogs with 0.9, 0.7 and 0.5; wanted are 2 and 1.
    chosen = thresholds_for(stored, labeled=labeled_of([0], [0, 1]))

    assert chosen == {"cat": pytest.approx(0.6), "dog": pytest.approx(0.9)}


def test_auto_never_goes_below_the_floor(ten_cats):
    assert thresholds_for(ten_cats, labeled=labeled_of([0]), ignore_floor=0.3)["cat"] == 0.3


def test_auto_takes_the_floor_where_a_labeled_class_was_never_found(ten_cats):
    labeled = labeled_of([1], *[[]] * 99)

    assert thresholds_for(ten_cats, labeled=labeled) == {"cat": 0.4, "dog": 0.1}


@pytest.mark.parametrize(
    "labeled",
    [None, labeled_of(), labeled_of(None), labeled_of([]), labeled_of(names=None)],
)
def test_auto_falls_back_without_labels(labeled, ten_cats):
    assert thresholds_for(ten_cats, labeled=labeled, fallback=0.35) == {"cat": 0.35, "dog": 0.35}


def test_auto_falls_back_without_images():
    assert thresholds_for({}, labeled=labeled_of([0])) == {"cat": 0.4, "dog": 0.4}


@given(scores=SCORES, drawn=st.integers(1, 20), images=st.integers(1, 10))
def test_auto_keeps_the_wanted_number_and_no_more_than_ties(scores, drawn, images, labels_of):
    stored = {"a": labels_of(scores=scores), "b": labels_of()}
    labeled = labeled_of([0] * drawn, *[[]] * (images - 1))

    limit = thresholds_for(stored, labeled=labeled, ignore_floor=0.0)["cat"]

    wanted = max(1, round(drawn / images * 2))
    assert sum(score > limit for score in scores) < wanted
    assert sum(score >= limit for score in scores) >= min(wanted, len(scores))


@given(scores=SCORES, drawn=st.integers(1, 20))
def test_more_labeled_boxes_never_raise_the_threshold(scores, drawn, labels_of):
    stored = {"a": labels_of(scores=scores)}

    few = thresholds_for(stored, labeled=labeled_of([0] * drawn))
    many = thresholds_for(stored, labeled=labeled_of([0] * (drawn + 1)))

    assert many["cat"] <= few["cat"]


def test_threshold_of_an_unknown_class_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"the class 'dgo'\. Accepted: cat, dog\. .*'dog'"):
        thresholds_for({}, {"dgo": 0.5})


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan"), {"cat": 1.5}])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ConfigError, match=r"class 'cat' is .* Accepted: numbers from 0 to 1"):
        thresholds_for({}, threshold)


def test_limits_follow_the_order_of_the_classes():
    limits = score_limits({"dog": 0.25, "cat": 0.5}, CLASSES)

    assert (limits.tolist(), limits.dtype) == ([0.5, 0.25], torch.float32)


@given(score=st.integers(1, 99))
def test_score_equal_to_its_threshold_is_a_target(score, labels_of):
    stored = {"a": labels_of(scores=[score / 100])}

    targets = select_targets(
        stored, {"cat": score / 100, "dog": 1.0}, CLASSES, ignore_floor=score / 100
    )["a"]

    assert (len(targets.boxes), len(targets.ignore)) == (1, 0)


def test_targets_ignore_regions_and_the_rest_by_hand(labels_of):
    boxes = [(i, 0, i + 1, 1) for i in range(6)]
    stored = {"a": labels_of(boxes, [0.9, 0.8, 0.6, 0.4, 0.2, 0.05], [0, 1, 0, 1, 0, 0])}

    targets = select_targets(stored, {"cat": 0.7, "dog": 0.4}, CLASSES, ignore_floor=0.2)["a"]

    # Cats 0.6 and 0.2 are below 0.7, and in the band that begins at 0.2.
    assert targets.boxes[:, 0].tolist() == [0, 1, 3]
    assert targets.labels.tolist() == [0, 1, 1]
    assert targets.ignore[:, 0].tolist() == [2, 4]
    assert targets.origin == "teacher"


@pytest.mark.parametrize(
    ("weighting", "weights"), [("hard", [1, 1]), ("score", [0.75, 0.5]), ("soft", [1, 1])]
)
def test_weights_are_one_or_the_score(weighting, weights, labels_of):
    stored = {"a": labels_of(scores=[0.75, 0.5, 0.25])}

    targets = select_targets(
        stored, {"cat": 0.5, "dog": 0.5}, CLASSES, ignore_floor=0.1, weighting=weighting
    )["a"]

    assert targets.weights.tolist() == weights


def test_soft_targets_have_the_scores_of_the_boxes_that_are_kept(labels_of):
    boxes = [(i, 0, i + 1, 1) for i in range(3)]
    stored = {"a": labels_of(boxes, [0.75, 0.25, 0.5])}

    targets = select_targets(
        stored, {"cat": 0.5, "dog": 0.5}, CLASSES, ignore_floor=0.1, weighting="soft"
    )["a"]

    assert targets.boxes[:, 0].tolist() == [0, 2]
    assert targets.scores.tolist() == [0.75, 0.5]


@pytest.mark.parametrize("weighting", ["hard", "score"])
def test_other_targets_have_no_scores(weighting, labels_of):
    targets = select_targets(
        {"a": labels_of(scores=[0.75])},
        {"cat": 0.5, "dog": 0.5},
        CLASSES,
        ignore_floor=0.1,
        weighting=weighting,
    )["a"]

    assert targets.scores is None


def test_image_without_detections_has_empty_targets(labels_of):
    targets = select_targets(
        {"a": labels_of()}, {"cat": 0.5, "dog": 0.5}, CLASSES, ignore_floor=0.1
    )["a"]

    shapes = [tuple(part.shape) for part in (targets.boxes, targets.labels, targets.weights)]
    assert shapes == [(0, 4), (0,), (0,)]
    assert tuple(targets.ignore.shape) == (0, 4)


@pytest.mark.parametrize(
    ("known", "expected"), [(None, [True, True]), (torch.tensor([True, False]), [True, False])]
)
def test_classes_the_teacher_does_not_know_are_passed_on(known, expected, labels_of):
    targets = select_targets(
        {"a": labels_of()},
        {"cat": 0.5, "dog": 0.5},
        CLASSES,
        ignore_floor=0.1,
        known_classes=known,
    )["a"]

    assert targets.known_classes.tolist() == expected


@given(scores=SCORES, low=SHARES, high=SHARES, floor=SHARES)
def test_higher_threshold_only_moves_targets_to_the_ignore_regions(
    scores, low, high, floor, labels_of
):
    low, high = sorted((low, high))
    boxes = [(i, 0, i + 1, 1) for i in range(len(scores))]
    stored = {"a": labels_of(boxes, scores)}

    many = select_targets(stored, {"cat": low, "dog": 1}, CLASSES, ignore_floor=min(floor, low))
    few = select_targets(stored, {"cat": high, "dog": 1}, CLASSES, ignore_floor=min(floor, low))

    places = [
        {*found["a"].boxes[:, 0].tolist(), *found["a"].ignore[:, 0].tolist()}
        for found in (many, few)
    ]
    assert set(few["a"].boxes[:, 0].tolist()) <= set(many["a"].boxes[:, 0].tolist())
    assert places[0] == places[1]


@pytest.fixture(scope="module")
def empty_targets(labels_of):
    stored = {f"{i}.jpg": labels_of() for i in range(2000)}
    return select_targets(stored, {"cat": 0.5, "dog": 0.5}, CLASSES, ignore_floor=0.1)


def test_image_with_a_box_is_always_kept(labels_of):
    stored = {"a": labels_of(scores=[0.9]), "b": labels_of(scores=[0.2]), "c": labels_of()}
    targets = select_targets(stored, {"cat": 0.5, "dog": 0.5}, CLASSES, ignore_floor=0.1)

    assert keep_images(targets, keep_empty=0.0, seed=0) == ["a"]
    assert keep_images(targets, keep_empty=1.0, seed=0) == ["a", "b", "c"]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_about_the_wanted_share_of_empty_images_is_kept(share, empty_targets):
    kept = keep_images(empty_targets, keep_empty=share, seed=0)

    # The standard deviation is at most sqrt(0.25 / 2000) = 0.011.
    assert len(kept) / 2000 == pytest.approx(share, abs=0.04)


def test_whether_an_image_is_kept_follows_from_seed_and_name_alone(empty_targets):
    backwards = dict(reversed(empty_targets.items()))
    half = dict(list(empty_targets.items())[:1000])

    kept = set(keep_images(empty_targets, keep_empty=0.3, seed=7))

    assert set(keep_images(backwards, keep_empty=0.3, seed=7)) == kept
    assert set(keep_images(half, keep_empty=0.3, seed=7)) == kept & half.keys()


def test_another_seed_keeps_other_images(empty_targets):
    kept = [set(keep_images(empty_targets, keep_empty=0.3, seed=seed)) for seed in (0, 1)]

    # Independent choices of 30 % have 9 % of all images in common.
    assert len(kept[0] & kept[1]) / 2000 == pytest.approx(0.09, abs=0.03)


def test_larger_share_keeps_all_of_a_smaller_one(empty_targets):
    few = keep_images(empty_targets, keep_empty=0.2, seed=3)
    many = keep_images(empty_targets, keep_empty=0.4, seed=3)

    assert set(few) < set(many)


def test_name_that_is_not_utf8_is_decided_like_any_other(labels_of):
    stored = {"\udcff.jpg": labels_of()}
    targets = select_targets(stored, {"cat": 0.5, "dog": 0.5}, CLASSES, ignore_floor=0.1)

    assert keep_images(targets, keep_empty=1.0, seed=0) == ["\udcff.jpg"]

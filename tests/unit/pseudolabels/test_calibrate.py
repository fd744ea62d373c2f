"""Calibrations of teachers, by hand."""

import json

import numpy as np
import pytest
import torch

from distildet.classes import ClassList
from distildet.ops.score_calibration import fit_logistic, logistic
from distildet.pseudolabels.calibrate import fit_calibration, rank_calibrations

CLASSES = ClassList(("cat", "dog"))


def test_a_class_without_detections_takes_the_curve_of_the_teacher():
    scores = np.repeat([0.3, 0.7], 50)
    is_right = np.arange(100) % 2 == 0
    slope, bias = fit_logistic(scores, is_right, strength=1.0)

    calibrate = fit_calibration("temperature", scores, np.zeros(100, np.int64), is_right, 2)

    expected = logistic(np.array([0.6]), slope, bias)
    assert calibrate(torch.tensor([0.6]), torch.tensor([1])).numpy() == pytest.approx(expected)


def test_a_class_with_many_detections_has_a_curve_of_its_own():
    # Cats with a score of 0.5 are right in nine of ten cases, dogs in one of ten.
    labels = np.repeat([0, 1], 5000)
    is_right = (np.arange(10_000) % 10 == 0) == (labels == 1)

    calibrate = fit_calibration("temperature", np.full(10_000, 0.5), labels, is_right, 2)

    found = calibrate(torch.tensor([0.5, 0.5]), torch.tensor([0, 1]))
    assert found.tolist() == pytest.approx([0.9, 0.1], abs=0.01)


def test_an_isotonic_calibration_is_one_curve_for_all_classes():
    calibrate = fit_calibration(
        "isotonic",
        np.array([0.2, 0.8]),
        np.array([0, 0]),
        np.array([False, True]),
        2,
    )

    # Between the knots (0.2, 0) and (0.8, 1) a line, level outside.
    found = calibrate(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([1, 1, 0]))
    assert found.tolist() == pytest.approx([0.0, 0.5, 1.0])
    assert calibrate.as_json(CLASSES) == {"curve": {"scores": [0.2, 0.8], "values": [0.0, 1.0]}}


def test_what_was_fitted_is_json():
    calibrate = fit_calibration(
        "temperature", np.zeros(0), np.zeros(0, np.int64), np.zeros(0, bool), 2
    )

    same = {"slope": 1.0, "bias": 0.0}
    assert json.loads(json.dumps(calibrate.as_json(CLASSES))) == {
        "classes": {"cat": same, "dog": same}
    }


@pytest.fixture
def by_rank(labels_of):
    """Labels of two teachers in two images; only the first knows dogs."""
    return [
        {
            "a": labels_of(scores=[0.9, 0.5], labels=[0, 1]),
            "b": labels_of(scores=[0.7], labels=[0]),
        },
        {
            "a": labels_of(scores=[0.3, 0.3], labels=[0, 0]),
            "b": labels_of(scores=[0.1], labels=[0]),
        },
    ]


def test_equal_ranks_get_the_mean_score(by_rank):
    known = torch.tensor([[True, True], [True, False]])

    first, second = rank_calibrations([by_rank], known)

    # Cats: (0.9 + 0.3) / 2, (0.7 + 0.3) / 2, (0 + 0.1) / 2. Dogs have the first teacher alone.
    cats = torch.tensor([0, 0])
    assert first(torch.tensor([0.9, 0.7]), cats).tolist() == pytest.approx([0.6, 0.5])
    assert second(torch.tensor([0.3, 0.1]), cats).tolist() == pytest.approx([0.6, 0.05])
    assert first(torch.tensor([0.5]), torch.tensor([1])).tolist() == [0.5]


def test_ranks_are_those_of_all_parts_of_the_images_together(by_rank):
    known = torch.tensor([[True, True], [True, False]])
    parts = [[{name: one[name]} for one in by_rank] for name in "ba"]

    calibrations = zip(
        rank_calibrations([by_rank], known), rank_calibrations(iter(parts), known), strict=True
    )

    for whole, in_parts in calibrations:
        np.testing.assert_equal(in_parts.knots, whole.knots)


def test_images_that_another_teacher_could_not_label_have_no_ranks(by_rank):
    known = torch.tensor([[True, True], [True, False]])
    first, second = by_rank

    _, calibrate = rank_calibrations([[{"a": first["a"]}, second]], known)

    # Cats in a: 0.9 beside 0.3 twice. The 0.1 in b has no rank, and takes the nearest score's.
    scores = calibrate(torch.tensor([0.3, 0.1]), torch.tensor([0, 0]))
    assert scores.tolist() == pytest.approx([0.6, 0.6])


def test_of_ranks_is_told_how_many_scores_there_were(by_rank):
    _, second = rank_calibrations([by_rank], torch.tensor([[True, True], [True, False]]))

    # Dogs of the second teacher: the diagonal, which is never used.
    assert second.as_json(CLASSES) == {"classes": {"cat": {"knots": 2}, "dog": {"knots": 2}}}


def test_a_calibration_never_changes_the_order_of_a_class(by_rank):
    scores = np.random.default_rng(0).uniform(size=300)
    is_right = np.random.default_rng(1).uniform(size=300) < scores**2
    labels = np.zeros(300, np.int64)
    rising = torch.linspace(0, 1, 101)

    for method in ("temperature", "isotonic"):
        calibrate = fit_calibration(method, scores, labels, is_right, 1)
        values = calibrate(rising, torch.zeros(101, dtype=torch.int64))
        assert (values.diff() >= 0).all()
        assert (values >= 0).all()
        assert (values <= 1).all()

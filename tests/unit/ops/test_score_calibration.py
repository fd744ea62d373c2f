"""Calibration curves, against values by hand and loops written from the definitions."""

import math

import numpy as np
import pytest

from distildet.ops.score_calibration import (
    LEAST_SLOPE,
    calibration_error,
    fit_logistic,
    isotonic_curve,
    logistic,
)


def test_no_detection_leaves_the_prior():
    assert fit_logistic(np.zeros(0), np.zeros(0, bool), strength=1.0) == (1.0, 0.0)


def test_many_detections_of_one_precision_get_that_precision():
    # 7,500 of 10,000 with a score of 0.5, whose logit is 0, are right: bias = log(3).
    is_right = np.arange(10_000) % 4 != 0

    slope, bias = fit_logistic(np.full(10_000, 0.5), is_right, strength=1.0)

    assert (slope, bias) == pytest.approx((1.0, math.log(3)), abs=1e-3)


def test_a_known_curve_is_found_again():
    generator = np.random.default_rng(0)
    scores = generator.uniform(0.05, 0.95, 50_000)
    is_right = generator.uniform(size=50_000) < logistic(scores, 0.6, -0.8)

    slope, bias = fit_logistic(scores, is_right, strength=1.0)

    assert (slope, bias) == pytest.approx((0.6, -0.8), abs=0.05)


def test_the_fit_is_the_minimum_of_the_formula():
    scores = np.array([0.1, 0.3, 0.3, 0.6, 0.9])
    is_right = np.array([False, True, False, True, True])

    def objective(slope, bias):
        total = 1.5 / 2 * ((slope - 1.2) ** 2 + (bias - 0.3) ** 2)
        for score, right in zip(scores, is_right, strict=True):
            margin = slope * math.log(score / (1 - score)) + bias
            total += math.log(1 + math.exp(-margin if right else margin))
        return total

    slope, bias = fit_logistic(scores, is_right, prior=(1.2, 0.3), strength=1.5)

    least = objective(slope, bias)
    steps = [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)]
    assert all(objective(slope + ds, bias + db) > least for ds, db in steps)


def test_scores_that_are_right_without_exception_stay_below_one():
    slope, bias = fit_logistic(np.full(5, 0.9), np.ones(5, bool), strength=1.0)

    assert 0.9 < logistic(np.array([0.9]), slope, bias)[0] < 1.0


def test_scores_that_mislead_keep_their_order():
    scores = np.repeat([0.1, 0.9], 1000)
    is_right = np.repeat([True, False], 1000)

    slope, bias = fit_logistic(scores, is_right, strength=1.0)

    assert slope == LEAST_SLOPE
    assert logistic(np.array([0.1, 0.9]), slope, bias) == pytest.approx([0.5, 0.5], abs=0.06)


def test_scores_of_zero_and_one_have_a_finite_curve():
    values = logistic(np.array([0.0, 1.0]), 1.0, 0.0)

    assert values == pytest.approx([0, 1], abs=1e-5)


def test_an_isotonic_curve_by_hand():
    # Precisions by score: 0, 1, 0, 1 (two detections, one right: 1 / 2), 1. The 1 before the 0
    # violates the order and is pooled with it: (1 + 0) / 2 = 0.5; with the next 0.5: 2 / 4.
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.4, 0.9])
    is_right = np.array([False, True, False, True, False, True])

    places, values = isotonic_curve(scores, is_right)

    assert places.tolist() == [0.1, 0.2, 0.4, 0.9]
    assert values.tolist() == [0.0, 0.5, 0.5, 1.0]


def test_an_isotonic_curve_is_the_greatest_of_all_lower_means():
    # Min-max formula of isotonic regression: g(i) = max over a <= i of min over b >= i of
    # mean(a..b).
    generator = np.random.default_rng(3)
    scores = np.sort(generator.uniform(size=60))
    is_right = generator.uniform(size=60) < scores
    expected = [
        max(min(is_right[a : b + 1].mean() for b in range(i, 60)) for a in range(i + 1))
        for i in range(60)
    ]

    values = np.interp(scores, *isotonic_curve(scores, is_right))

    assert values == pytest.approx(expected, abs=1e-12)


def test_without_detections_an_isotonic_curve_is_the_diagonal():
    places, values = isotonic_curve(np.zeros(0), np.zeros(0, bool))

    assert np.interp([0.25, 0.5], places, values).tolist() == [0.25, 0.5]


def test_the_error_by_hand():
    # One bin: mean score 0.95, one of two right: |0.95 - 0.5| = 0.45. Another: 0.01 and 0 right.
    scores = np.array([0.95, 0.95, 0.01, 0.01])
    is_right = np.array([True, False, False, False])

    assert calibration_error(scores, is_right) == pytest.approx((2 * 0.45 + 2 * 0.01) / 4)


def test_a_score_of_one_is_in_the_last_bin():
    assert calibration_error(np.array([1.0, 0.99]), np.array([True, True])) == pytest.approx(0.005)


def test_without_detections_there_is_no_error():
    assert calibration_error(np.zeros(0), np.zeros(0, bool)) is None

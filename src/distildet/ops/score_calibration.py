"""Curves from the score of a detection to the share of such detections that are right."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

NUM_BINS = 15
"""Of the calibration error, as in Guo et al., arXiv 1706.04599."""
LEAST_SLOPE = 0.05
"""Below it a curve would no longer tell good scores from bad ones."""
_LEAST_SCORE = 1e-6
_MOST_STEPS = 100
_SMALLEST_STEP = 1e-12


def fit_logistic(
    scores: Numbers, is_right: Flags, *, prior: tuple[float, float] = (1.0, 0.0), strength: float
) -> tuple[float, float]:
    """Fit slope and bias (1 / temperature and Platt's B) of the curve from score to precision.

    Formula:
        minimise sum of log(1 + exp(-y (slope * logit(score) + bias)))
                 + strength / 2 * ((slope - prior slope)^2 + (bias - prior bias)^2),
        y = 1 where right, else -1; slope >= `LEAST_SLOPE`. The second term keeps few scores, or
        scores that are right without exception, from any extreme: of none the prior is left.

    Args:
        scores: [n] 0..1.
        is_right: [n].
        prior: Slope and bias to which few scores keep; 1 and 0 are the scores as they are.
        strength: Of the prior, > 0; 1 is worth four detections that are as good as undecided.

    Source:
        Platt, "Probabilistic outputs for support vector machines", 1999; Guo et al., 2017,
        arXiv 1706.04599, for the temperature. The prior is ours.
    """
    columns = np.stack([_logit(scores), np.ones(len(scores))], axis=1)  # [n 2]
    centre = np.array(prior)
    fitted = _newton(columns, is_right, np.zeros(len(scores)), centre, strength)
    if fitted[0] < LEAST_SLOPE:
        bias = _newton(columns[:, 1:], is_right, LEAST_SLOPE * columns[:, 0], centre[1:], strength)
        return LEAST_SLOPE, float(bias[0])
    return float(fitted[0]), float(fitted[1])


def _newton(
    columns: Numbers, is_right: Flags, offset: Numbers, centre: Numbers, strength: float
) -> Numbers:
    """Minimise by Newton's method, whose steps are halved while they do not lead down."""

    def objective(point: Numbers) -> float:
        margins = np.where(is_right, 1.0, -1.0) * (columns @ point + offset)
        away = point - centre
        return float(np.logaddexp(0.0, -margins).sum() + strength / 2 * (away @ away))

    point = centre.copy()
    value = objective(point)
    for _ in range(_MOST_STEPS):
        probs = _sigmoid(columns @ point + offset)
        gradient = columns.T @ (probs - is_right) + strength * (point - centre)
        curvature = (columns * (probs * (1 - probs))[:, None]).T @ columns
        step = np.linalg.solve(curvature + strength * np.eye(len(point)), gradient)
        while objective(point - step) > value and np.abs(step).max() > _SMALLEST_STEP:
            step = step / 2
        if np.abs(step).max() <= _SMALLEST_STEP:
            break
        point = point - step
        value = objective(point)
    return point


def logistic(scores: Numbers, slope: Numbers | float, bias: Numbers | float) -> Numbers:
    """Return sigmoid(slope * logit(score) + bias), 0..1."""
    return _sigmoid(slope * _logit(scores) + bias)


def _logit(scores: Numbers) -> Numbers:
    inside = np.clip(scores, _LEAST_SCORE, 1 - _LEAST_SCORE)
    return np.asarray(np.log(inside) - np.log1p(-inside), dtype=np.float64)


def _sigmoid(values: Numbers) -> Numbers:
    # exp of a large number overflows; tanh does not.
    return 0.5 + 0.5 * np.tanh(0.5 * values)


def isotonic_curve(scores: Numbers, is_right: Flags) -> tuple[Numbers, Numbers]:
    """Fit the rising step function nearest to right (1) and wrong (0), by pool-adjacent-violators.

    Args:
        scores: [n] 0..1; equal ones are pooled.
        is_right: [n].

    Returns:
        Knots between which the curve is linear, and outside of which it is level: scores, rising
        (first and last of each step), and values. Without scores the diagonal.
    """
    if not len(scores):
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    places, group = np.unique(scores, return_inverse=True)
    counts = np.bincount(group).tolist()
    rights = np.bincount(group, weights=is_right).tolist()
    steps: list[tuple[float, int, int, int]] = []  # right, all, first place, last place
    for place, (right, count) in enumerate(zip(rights, counts, strict=True)):
        step = (right, count, place, place)
        while steps and steps[-1][0] * step[1] >= step[0] * steps[-1][1]:
            before = steps.pop()
            step = (before[0] + step[0], before[1] + step[1], before[2], step[3])
        steps.append(step)
    knots = [
        (places[place], right / count)
        for right, count, first, last in steps
        for place in dict.fromkeys((first, last))
    ]
    return np.array([x for x, _ in knots]), np.array([y for _, y in knots])


def calibration_error(scores: Numbers, is_right: Flags) -> float | None:
    """Return the expected calibration error: how far scores are from the share that is right.

    Formula:
        sum over bins of (n_bin / n) * |mean score - share that is right|, for `NUM_BINS` bins of
        equal width.

    Args:
        scores: [n] 0..1.
        is_right: [n].

    Returns:
        0..1, or None without scores.
    """
    if not len(scores):
        return None
    bins = np.minimum((scores * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    differences = np.bincount(bins, weights=scores - is_right)
    return float(np.abs(differences).sum() / len(scores))

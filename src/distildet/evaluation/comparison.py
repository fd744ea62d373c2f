"""What students gained over their baselines, with an interval."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hotcoco

from distildet.errors import ConfigError, DataError
from distildet.evaluation.coco_metrics import Evaluation

COMPARED_METRICS = ("AP", "AP50")

_CONFIDENCE = 0.95
# Half the width of a 95 % interval of the normal distribution, in standard deviations.
_NORMAL_QUANTILE = 1.96
# Below this the 2.5 % percentile rests on one or two resamples.
_LEAST_SAMPLES = 100


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A difference of two metrics and its 95 % interval, in fractions.

    Args:
        value: Student minus baseline, mean over seeds.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def compare_evaluations(
    students: Sequence[Evaluation],
    baselines: Sequence[Evaluation],
    *,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute the gain in AP and AP50 of students over baselines, with 95 % intervals.

    Student i and baseline i come from the same seed. For each pair a paired bootstrap over the
    images gives a 95 % interval. With one seed that percentile interval is the answer. With
    several, `pooled_interval` joins the variance over images with the variance over seeds.

    Args:
        students: One evaluation a seed.
        baselines: The baselines of the same seeds in the same order.
        samples: Resamples of the images in the bootstrap, at least 100.
        seed: Seed of the resampling.

    Returns:
        Metric name -> interval; a metric that is undefined (no object to find) is left out.

    Raises:
        ConfigError: No seeds, unequal numbers of seeds, or too few samples.
        DataError: The evaluations are not all on the same ground truth.
    """
    _check_pairs(students, baselines, samples)
    compared = [name for name in COMPARED_METRICS if students[0].metrics[name] is not None]
    if not compared:
        return {}
    comparisons = [
        hotcoco.compare(
            baseline.evaluator,
            student.evaluator,
            n_bootstrap=samples,
            seed=_evaluator_seed(seed, samples),
            confidence=_CONFIDENCE,
        )
        for student, baseline in zip(students, baselines, strict=True)
    ]
    return {
        name: pooled_interval([_image_interval(comparison, name) for comparison in comparisons])
        for name in compared
    }


def pooled_interval(pairs: Sequence[Interval]) -> Interval:
    """Pool the intervals of several seeds into one for the mean over seeds.

    All seeds share the same validation images, so their differences move together when other
    images are drawn: more seeds do not make the images more. Only the spread between seeds is
    divided by the number of seeds.

    Formula:
        v = mean_i e_i² + s² / S        interval = d ± 1.96 √v
        e_i = (high_i - low_i) / (2 · 1.96), the standard error over images of pair i; s² the
        unbiased variance of the S differences d_i; d their mean.

    Args:
        pairs: One interval a seed, over images only; at least one.

    Returns:
        The interval of the mean; a single one is returned as it is.
    """
    if len(pairs) == 1:
        return pairs[0]
    differences = [pair.value for pair in pairs]
    errors = [(pair.high - pair.low) / (2 * _NORMAL_QUANTILE) for pair in pairs]
    image_variance = statistics.fmean(error**2 for error in errors)
    seed_variance = statistics.variance(differences)
    half_width = _NORMAL_QUANTILE * math.sqrt(image_variance + seed_variance / len(pairs))
    value = statistics.fmean(differences)
    return Interval(value=value, low=value - half_width, high=value + half_width)


def verdict(interval: Interval | None) -> str:
    """Say in words what an interval shows.

    Returns:
        "gain" where all of it is above 0, "no gain" where all of it is below 0, "tie" where 0 is
        inside or at an end, "not measured" for None.
    """
    if interval is None:
        return "not measured"
    if interval.low > 0:
        return "gain"
    return "no gain" if interval.high < 0 else "tie"


def _check_pairs(
    students: Sequence[Evaluation], baselines: Sequence[Evaluation], samples: int
) -> None:
    if not students or len(students) != len(baselines):
        raise ConfigError(
            f"A comparison got {len(students)} student and {len(baselines)} baseline evaluations. "
            "It needs one of each for every seed, and at least one seed."
        )
    if samples < _LEAST_SAMPLES:
        raise ConfigError(
            f"The comparison's samples is {samples}. Accepted: {_LEAST_SAMPLES} or more, since a "
            "95 % interval is read off the tails. Leave it at 1000 unless time is short."
        )
    if len({evaluation.ground_truth for evaluation in (*students, *baselines)}) > 1:
        raise DataError(
            "The evaluations of a comparison were made on different images or annotations. "
            "Evaluate students and baselines on the same validation dataset."
        )


def _evaluator_seed(seed: int, samples: int) -> int:
    # hotcoco (1.3) draws resample i from seed + i, so that neighbouring seeds would share all but
    # one of their resamples and agree for no reason. Steps of `samples` keep them apart; the
    # modulus (a prime, so that large seeds stay distinct) fits the 64 bits that hotcoco takes.
    return seed * samples % (2**61 - 1)


def _image_interval(comparison: dict[str, Any], name: str) -> Interval:
    bounds = comparison["ci"][name]
    return Interval(value=comparison["deltas"][name], low=bounds["lower"], high=bounds["upper"])

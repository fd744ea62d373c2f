"""What students gained over their baselines, with an interval."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distildet.data.subset import scenes
from distildet.errors import ConfigError, DataError
from distildet.evaluation.coco_metrics import Evaluation, evaluate_detections

COMPARED_METRICS = ("AP", "AP50")

_CONFIDENCE = 0.95
# A standard error from fewer resamples is itself uncertain by more than a tenth.
_LEAST_SAMPLES = 50


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
    scene_gap: int = 0,
    samples: int = 200,
    seed: int = 0,
) -> dict[str, Interval]:
    """Compute the gain in AP and AP50 of students over baselines, with 95 % intervals.

    Student i and baseline i come from the same seed. The images (or whole scenes, whose frames
    are near copies) are drawn with replacement, the same for all seeds and both sides, and the
    mean difference over seeds is measured anew on each draw; `pooled_interval` joins its standard
    deviation with the spread over seeds.

    Args:
        students: One evaluation a seed.
        baselines: The baselines of the same seeds in the same order.
        scene_gap: Images whose file-name numbers differ by at most this are drawn together.
        samples: Draws of the bootstrap, at least 50.
        seed: Seed of the draws.

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
    pairs = list(zip(students, baselines, strict=True))
    drawn: dict[str, list[float]] = {name: [] for name in compared}
    groups = scenes(students[0].dataset.samples, scene_gap)
    generator = np.random.default_rng(seed)
    for _ in range(samples):
        chosen = generator.integers(len(groups), size=len(groups))
        images = [image for group in chosen for image in groups[group]]
        again = [(_resampled(s, images), _resampled(b, images)) for s, b in pairs]
        for name in compared:
            differences = [_difference(student, baseline, name) for student, baseline in again]
            drawn[name].append(statistics.fmean(differences))
    return {
        name: pooled_interval(
            [_difference(student, baseline, name) for student, baseline in pairs],
            float(np.nanstd(drawn[name], ddof=1)),
        )
        for name in compared
    }


def pooled_interval(differences: Sequence[float], image_error: float) -> Interval:
    """Return the interval of a mean over seeds, for other images and other seeds.

    All seeds share the same validation images, so their differences move together when other
    images are drawn: more seeds do not make the images more. Only the spread between seeds is
    divided by the number of seeds. That spread is known from few seeds, hence Student's t with
    the degrees of freedom of Welch and Satterthwaite.

    Formula:
        v = e² + s² / S        f = (S - 1) · (v / (s² / S))²        interval = d ± t(f) · √v
        e the standard error of d over images, s² the unbiased variance of the S differences, d
        their mean. With one seed s² is taken as 0: the interval is then for these two models.

    Args:
        differences: Student minus baseline, one a seed.
        image_error: Standard error over images of their mean.
    """
    num_seeds = len(differences)
    value = statistics.fmean(differences)
    seed_part = statistics.variance(differences) / num_seeds if num_seeds > 1 else 0.0
    variance = image_error**2 + seed_part
    freedom = math.inf if seed_part == 0 else (num_seeds - 1) * (variance / seed_part) ** 2
    half_width = student_quantile(freedom) * math.sqrt(variance)
    return Interval(value=value, low=value - half_width, high=value + half_width)


def student_quantile(freedom: float) -> float:
    """Return t with P(|T| < t) = 0.95 for Student's distribution.

    With T = √f · tan(u) the density in u is proportional to cos(u)^(f - 1), which is summed up on
    a fine grid; exact to four digits.

    Args:
        freedom: Degrees of freedom f, at least 1; large values give the normal quantile.
    """
    if freedom > 1e6:
        return statistics.NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    # Beyond this angle the density is below 1e-16 of its peak.
    widest = math.pi / 2 if freedom < 100 else math.atan(12 / math.sqrt(freedom))
    angles = np.linspace(0, widest, 400_001)
    density = np.cos(angles) ** (freedom - 1)
    share = np.cumsum((density[1:] + density[:-1]) / 2)
    angle = angles[1:][np.searchsorted(share / share[-1], _CONFIDENCE)]
    return math.sqrt(freedom) * math.tan(angle)


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


def _resampled(evaluation: Evaluation, images: Sequence[int]) -> Evaluation:
    """Evaluate the detections on drawn images; one that was drawn twice counts twice."""
    samples = evaluation.dataset.samples
    drawn = {str(place): samples[image] for place, image in enumerate(images)}
    return evaluate_detections(
        replace(
            evaluation.dataset,
            samples=tuple(replace(sample, id=name) for name, sample in drawn.items()),
        ),
        {name: evaluation.detections[sample.id] for name, sample in drawn.items()},
    )


def _difference(student: Evaluation, baseline: Evaluation, name: str) -> float:
    ours, theirs = student.metrics[name], baseline.metrics[name]
    return math.nan if ours is None or theirs is None else ours - theirs


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
            "standard error is estimated from them. Leave it at 200 unless time is short."
        )
    if len({evaluation.ground_truth for evaluation in (*students, *baselines)}) > 1:
        raise DataError(
            "The evaluations of a comparison were made on different images or annotations. "
            "Evaluate students and baselines on the same validation dataset."
        )

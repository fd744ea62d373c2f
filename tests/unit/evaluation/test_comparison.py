import math
from dataclasses import replace

import numpy as np
import pytest

from distildet.errors import ConfigError, DataError
from distildet.evaluation.coco_metrics import evaluate_detections
from distildet.evaluation.comparison import (
    Interval,
    compare_evaluations,
    pooled_interval,
    verdict,
)

SAMPLES = 100


@pytest.fixture
def evaluations(random_scene, find_objects):
    """Three noisy and three better evaluations of one dataset."""
    dataset, _ = random_scene(0, images=30)
    noisy = [evaluate_detections(dataset, find_objects(dataset, seed, 0.25)) for seed in range(3)]
    better = [evaluate_detections(dataset, find_objects(dataset, seed, 0.03)) for seed in range(3)]
    return noisy, better


def test_identical_evaluations_tie_at_zero(evaluations):
    noisy, _ = evaluations

    gain = compare_evaluations(noisy, noisy, samples=SAMPLES)

    zero = Interval(value=0, low=0, high=0)
    assert gain == {"AP": zero, "AP50": zero}
    assert verdict(gain["AP"]) == "tie"


@pytest.mark.parametrize("seeds", [1, 3])
def test_clear_improvement_is_a_gain_and_its_opposite_none(seeds, evaluations):
    noisy, better = (side[:seeds] for side in evaluations)

    gain = compare_evaluations(better, noisy, samples=SAMPLES)
    loss = compare_evaluations(noisy, better, samples=SAMPLES)

    assert verdict(gain["AP"]) == "gain"
    assert verdict(loss["AP"]) == "no gain"


def test_value_is_the_mean_difference_of_the_metrics(evaluations):
    noisy, better = evaluations

    gain = compare_evaluations(better, noisy, samples=SAMPLES)

    differences = np.array(
        [
            [b.metrics["AP"] - n.metrics["AP"], b.metrics["AP50"] - n.metrics["AP50"]]
            for b, n in zip(better, noisy, strict=True)
        ]
    )
    values = [gain["AP"].value, gain["AP50"].value]
    assert values == pytest.approx(differences.mean(axis=0), abs=1e-12)


def test_several_seeds_are_pooled_from_their_single_intervals(evaluations):
    noisy, better = evaluations

    gain = compare_evaluations(better, noisy, samples=SAMPLES, seed=5)

    singles = [
        compare_evaluations([b], [n], samples=SAMPLES, seed=5)["AP"]
        for b, n in zip(better, noisy, strict=True)
    ]
    assert gain["AP"] == pooled_interval(singles)


def test_pooling_adds_image_variance_to_seed_variance_over_seeds():
    # Image standard errors 0.392 / (2 * 1.96) = 0.1 and 0.784 / (2 * 1.96) = 0.2: mean variance
    # (0.01 + 0.04) / 2 = 0.025. Differences 0.3 and 0.5: variance 0.02, halved 0.01.
    # Total 0.035 around 0.4.
    pairs = [
        Interval(value=0.3, low=0.3 - 0.196, high=0.3 + 0.196),
        Interval(value=0.5, low=0.5 - 0.392, high=0.5 + 0.392),
    ]

    pooled = pooled_interval(pairs)

    half_width = 1.96 * math.sqrt(0.035)
    assert pooled.value == pytest.approx(0.4)
    assert pooled.low == pytest.approx(0.4 - half_width)
    assert pooled.high == pytest.approx(0.4 + half_width)


def test_more_seeds_that_agree_do_not_narrow_the_interval():
    pair = Interval(value=0.1, low=0.0, high=0.2)

    pooled = pooled_interval([pair] * 10)

    assert pooled.low == pytest.approx(0.0)
    assert pooled.high == pytest.approx(0.2)


def test_single_interval_is_kept_with_its_skew():
    pair = Interval(value=0.1, low=0.05, high=0.3)

    assert pooled_interval([pair]) == pair


def test_interval_repeats_with_the_seed_of_the_resampling(evaluations):
    noisy, better = evaluations

    first = compare_evaluations(better[:1], noisy[:1], samples=SAMPLES, seed=3)
    again = compare_evaluations(better[:1], noisy[:1], samples=SAMPLES, seed=3)

    assert first == again


@pytest.mark.parametrize("seed", [1, -1, 2**70])
def test_every_seed_draws_resamples_of_its_own(seed, evaluations):
    # hotcoco draws resample i from seed + i: unless spread, seeds 0 and 1 share 99 of 100.
    noisy, better = evaluations

    first = compare_evaluations(better[:1], noisy[:1], samples=SAMPLES, seed=0)["AP"]
    other = compare_evaluations(better[:1], noisy[:1], samples=SAMPLES, seed=seed)["AP"]

    assert (first.low != other.low, first.high != other.high) == (True, True)


def bootstrap_width(dataset, baseline, student, evaluator, resamples):
    """Width of the 95 % interval of the difference in AP, by evaluating resampled datasets."""
    generator = np.random.default_rng(0)
    images = [sample.id for sample in dataset.samples]
    differences = []
    for _ in range(resamples):
        drawn = generator.choice(images, len(images)).tolist()
        precisions = [
            evaluator(dataset, found, drawn, quick=True).eval["precision"]
            for found in (student, baseline)
        ]
        means = [precision[precision > -1].mean() for precision in precisions]
        differences.append(means[0] - means[1])
    low, high = np.percentile(differences, [2.5, 97.5])
    return high - low


def test_width_agrees_with_a_naive_bootstrap(random_scene, find_objects, pycocotools_evaluator):
    dataset, _ = random_scene(0, images=30)
    baseline, student = find_objects(dataset, 1, 0.2), find_objects(dataset, 2, 0.1)

    interval = compare_evaluations(
        [evaluate_detections(dataset, student)], [evaluate_detections(dataset, baseline)]
    )["AP"]

    naive = bootstrap_width(dataset, baseline, student, pycocotools_evaluator, resamples=60)
    # 60 resamples know the ends of an interval to about a quarter of its width.
    assert interval.high - interval.low == pytest.approx(naive, rel=0.35)


@pytest.mark.parametrize("image_ids", [[], ["a"]])
def test_nothing_to_find_is_not_measured(image_ids, annotations, dataset_of, detections_of):
    dataset = dataset_of({image: annotations() for image in image_ids})
    evaluation = evaluate_detections(dataset, dict.fromkeys(image_ids, detections_of()))

    gain = compare_evaluations([evaluation], [evaluation])

    assert gain == {}
    assert verdict(gain.get("AP")) == "not measured"


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.01, 0.02, "gain"),
        (-0.02, -0.01, "no gain"),
        (-0.01, 0.01, "tie"),
        (0.0, 0.01, "tie"),
        (-0.01, 0.0, "tie"),
    ],
)
def test_verdict_needs_all_of_the_interval_on_one_side(low, high, words):
    assert verdict(Interval(value=(low + high) / 2, low=low, high=high)) == words


@pytest.mark.parametrize(("students", "baselines"), [(0, 0), (1, 0), (2, 1)])
def test_unequal_numbers_of_seeds_are_refused(students, baselines, evaluations):
    noisy, better = evaluations

    with pytest.raises(
        ConfigError, match=f"got {students} student and {baselines} baseline evaluations"
    ):
        compare_evaluations(better[:students], noisy[:baselines])


def test_too_few_samples_are_refused(evaluations):
    noisy, better = evaluations

    with pytest.raises(ConfigError, match=r"samples is 99\. Accepted: 100 or more"):
        compare_evaluations(better, noisy, samples=99)


def test_other_ground_truth_is_refused(evaluations):
    noisy, better = evaluations

    with pytest.raises(DataError, match="different images or annotations"):
        compare_evaluations(better[:1], [replace(noisy[0], ground_truth="other")])

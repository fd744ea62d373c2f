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
    student_quantile,
    verdict,
)

SAMPLES = 50


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


def found_every_second(num_images, annotations, dataset_of, detections_of):
    """One object an image; the student finds it in every second one, the baseline never."""
    names = [f"{number:04d}.jpg" for number in range(num_images)]
    box = [10, 10, 30, 30]
    dataset = dataset_of({name: annotations(boxes=[box], labels=[0]) for name in names})
    nothing = detections_of()
    hit = detections_of(boxes=[box], scores=[0.9], labels=[0])
    student = {name: hit if number % 2 else nothing for number, name in enumerate(names)}
    return (
        evaluate_detections(dataset, student),
        evaluate_detections(dataset, dict.fromkeys(names, nothing)),
    )


def test_the_interval_is_that_of_a_share_of_independent_images(
    annotations, dataset_of, detections_of
):
    # AP is the share of found objects, here 1/2 of 100: standard error sqrt(1/4 / 100) = 0.05.
    student, baseline = found_every_second(100, annotations, dataset_of, detections_of)

    interval = compare_evaluations([student], [baseline])["AP"]

    # 200 draws know a standard error to about 5 %.
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.05, rel=0.15)


def test_frames_of_one_scene_are_drawn_together(annotations, dataset_of, detections_of):
    # Neighbours agree in nothing here, so two frames a scene leave no scene to chance at all.
    student, _ = found_every_second(100, annotations, dataset_of, detections_of)
    scattered = evaluate_detections(
        replace(
            student.dataset,
            samples=tuple(
                replace(sample, id=f"{10 * (number // 2) + number % 2:04d}.jpg")
                for number, sample in enumerate(student.dataset.samples)
            ),
        ),
        {
            f"{10 * (number // 2) + number % 2:04d}.jpg": student.detections[sample.id]
            for number, sample in enumerate(student.dataset.samples)
        },
    )
    empty = evaluate_detections(
        scattered.dataset, {s.id: detections_of() for s in scattered.dataset.samples}
    )

    interval = compare_evaluations([scattered], [empty], scene_gap=1, samples=50)["AP"]

    assert interval.high - interval.low == pytest.approx(0, abs=1e-9)


def test_pooling_adds_image_variance_to_seed_variance_over_seeds():
    # Differences 0.3 and 0.5: variance 0.02, over two seeds 0.01; images 0.5^2 = 0.25. The
    # degrees of freedom are (2 - 1) * (0.26 / 0.01)^2 = 676, where t is 1.9635 in tables.
    pooled = pooled_interval([0.3, 0.5], 0.5)

    half_width = 1.9635 * math.sqrt(0.26)
    assert pooled.value == pytest.approx(0.4)
    assert pooled.low == pytest.approx(0.4 - half_width, abs=1e-4)
    assert pooled.high == pytest.approx(0.4 + half_width, abs=1e-4)


def test_without_image_noise_the_interval_is_that_of_a_t_test():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); t with 2 degrees is 4.3027.
    pooled = pooled_interval([1.0, 2.0, 3.0], 0.0)

    assert pooled.high - pooled.value == pytest.approx(4.3027 / math.sqrt(3), abs=1e-3)


def test_more_seeds_that_agree_do_not_narrow_the_interval():
    assert pooled_interval([0.1] * 10, 0.05) == pooled_interval([0.1], 0.05)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (5, 2.5706), (30, 2.0423), (1000, 1.9623), (math.inf, 1.95996)],
)
def test_quantiles_of_t_are_those_of_the_tables(freedom, quantile):
    assert student_quantile(freedom) == pytest.approx(quantile, rel=1e-3)


def test_interval_repeats_with_the_seed_of_the_resampling(evaluations):
    noisy, better = evaluations

    first = compare_evaluations(better[:1], noisy[:1], samples=SAMPLES, seed=3)
    again = compare_evaluations(better[:1], noisy[:1], samples=SAMPLES, seed=3)

    assert first == again


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

    with pytest.raises(ConfigError, match=r"samples is 49\. Accepted: 50 or more"):
        compare_evaluations(better, noisy, samples=49)


def test_other_ground_truth_is_refused(evaluations):
    noisy, better = evaluations

    with pytest.raises(DataError, match="different images or annotations"):
        compare_evaluations(better[:1], [replace(noisy[0], ground_truth="other")])

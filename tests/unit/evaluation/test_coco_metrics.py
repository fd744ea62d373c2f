from dataclasses import replace

import numpy as np
import pytest
import torch

from distildet.data.dataset import Dataset
from distildet.errors import DataError
from distildet.evaluation.coco_metrics import evaluate_detections
from distildet.structures import Detections

METRICS = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100"]
# Where these metrics stand in the summary of pycocotools.
SUMMARY_ROWS = [0, 1, 2, 3, 4, 5, 8]


def undefined_as_none(values: list[float]) -> list[float | None]:
    return [None if value == -1 else value for value in values]


def expected_metrics(evaluator) -> dict[str, float | None]:
    evaluator.summarize()
    return dict(zip(METRICS, undefined_as_none(evaluator.stats[SUMMARY_ROWS]), strict=True))


def expected_per_class(evaluator, names) -> dict[str, dict[str, float | None]]:
    precision = evaluator.eval["precision"][:, :, :, 0, 2]
    ap = undefined_as_none(precision.mean(axis=(0, 1)))
    ap50 = undefined_as_none(precision[0].mean(axis=0))
    return {name: {"AP": a, "AP50": b} for name, a, b in zip(names, ap, ap50, strict=True)}


def assert_equal_to_pycocotools(dataset, detections, pycocotools_evaluator):
    evaluation = evaluate_detections(dataset, detections)

    expected = pycocotools_evaluator(dataset, detections)
    assert evaluation.metrics == pytest.approx(expected_metrics(expected), abs=1e-9)
    by_class = expected_per_class(expected, dataset.classes)
    assert list(evaluation.per_class) == list(by_class)
    for name, values in by_class.items():
        assert evaluation.per_class[name] == pytest.approx(values, abs=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_metrics_equal_pycocotools_on_random_scenes(seed, random_scene, pycocotools_evaluator):
    dataset, detections = random_scene(seed)

    assert_equal_to_pycocotools(dataset, detections, pycocotools_evaluator)


def test_random_scenes_have_what_makes_evaluation_hard(random_scene):
    dataset, detections = random_scene(0)
    drawn = [sample.annotations for sample in dataset.samples]

    assert any(annotations.crowd.any() for annotations in drawn)
    assert any(not len(annotations.labels) for annotations in drawn)
    assert None not in evaluate_detections(dataset, detections).metrics.values()
    assert any(len(found.scores.unique()) < len(found) for found in detections.values())
    assert not any((annotations.labels == 3).any() for annotations in drawn)


def test_metrics_equal_pycocotools_where_images_have_no_detections(
    random_scene, detections_of, pycocotools_evaluator
):
    dataset, detections = random_scene(7)
    emptied = detections | {f"{index}.jpg": detections_of() for index in (1, 4, 11)}

    assert_equal_to_pycocotools(dataset, emptied, pycocotools_evaluator)


def test_metrics_equal_pycocotools_with_over_100_detections_of_a_class(
    random_scene, pycocotools_evaluator
):
    dataset, detections = random_scene(8, images=4, false=500)

    assert_equal_to_pycocotools(dataset, detections, pycocotools_evaluator)


def test_metrics_equal_pycocotools_when_all_scores_are_equal(random_scene, pycocotools_evaluator):
    dataset, detections = random_scene(9)
    tied = {
        image: replace(found, scores=torch.full_like(found.scores, 0.5))
        for image, found in detections.items()
    }

    assert_equal_to_pycocotools(dataset, tied, pycocotools_evaluator)


def test_one_of_two_objects_found_exactly_gives_half(annotations, dataset_of, detections_of):
    dataset = dataset_of(
        {"a": annotations([[0, 0, 50, 50], [100, 100, 150, 150]], [0, 0])}, ["cat", "dog"]
    )

    evaluation = evaluate_detections(dataset, {"a": detections_of([[0, 0, 50, 50]], [0], [0.9])})

    # Precision is 1 at the 51 of 101 recall thresholds up to 0.5, and 0 above; recall is 1/2.
    assert evaluation.metrics == pytest.approx(
        {
            "AP": 51 / 101,
            "AP50": 51 / 101,
            "AP75": 51 / 101,
            "AP_small": None,
            "AP_medium": 51 / 101,
            "AP_large": None,
            "AR100": 0.5,
        }
    )
    assert evaluation.per_class["cat"] == pytest.approx({"AP": 51 / 101, "AP50": 51 / 101})
    assert evaluation.per_class["dog"] == {"AP": None, "AP50": None}


def test_stated_area_decides_the_size_bucket(annotations, dataset_of, detections_of):
    # The box covers 50 x 50 = 2500 (medium), the object in it 900 (small, below 32 x 32).
    dataset = dataset_of({"a": annotations([[0, 0, 50, 50]], [0], areas=[900])})

    evaluation = evaluate_detections(dataset, {"a": detections_of([[0, 0, 50, 50]], [0], [0.9])})

    assert evaluation.metrics["AP_small"] == pytest.approx(1)
    assert evaluation.metrics["AP_medium"] is None


def test_objects_without_any_detection_give_zero(annotations, dataset_of, detections_of):
    dataset = dataset_of({"a": annotations([[0, 0, 50, 50]], [0])})

    evaluation = evaluate_detections(dataset, {"a": detections_of()})

    assert evaluation.metrics["AP"] == 0
    assert evaluation.metrics["AR100"] == 0
    assert evaluation.per_class == {
        "cat": {"AP": 0, "AP50": 0},
        "dog": {"AP": None, "AP50": None},
    }


@pytest.mark.parametrize("image_ids", [[], ["a", "b"]])
def test_nothing_to_find_leaves_every_metric_undefined(
    image_ids, annotations, dataset_of, detections_of
):
    dataset = dataset_of({image: annotations() for image in image_ids})
    detections = dict.fromkeys(image_ids, detections_of([[0, 0, 5, 5]], [1], [0.5]))

    evaluation = evaluate_detections(dataset, detections)

    assert evaluation.metrics == dict.fromkeys(METRICS)
    assert evaluation.per_class == {
        "cat": {"AP": None, "AP50": None},
        "dog": {"AP": None, "AP50": None},
    }


def test_images_without_annotations_do_not_count(annotations, dataset_of, detections_of):
    found = detections_of([[0, 0, 50, 50]], [0], [0.9])
    dataset = dataset_of({"unseen": None, "a": annotations([[0, 0, 50, 50]], [0])})

    evaluation = evaluate_detections(dataset, {"unseen": found, "a": found, "elsewhere": found})

    assert evaluation.metrics["AP"] == pytest.approx(1)


def test_evaluation_prints_nothing(random_scene, capfd):
    evaluate_detections(*random_scene(1))

    assert capfd.readouterr() == ("", "")


def test_inputs_stay_as_they_were(random_scene):
    dataset, detections = random_scene(2)
    boxes = np.concatenate([sample.annotations.boxes for sample in dataset.samples])
    found = torch.cat([result.boxes for result in detections.values()])

    evaluate_detections(dataset, detections)

    assert np.array_equal(
        boxes, np.concatenate([sample.annotations.boxes for sample in dataset.samples])
    )
    assert torch.equal(found, torch.cat([result.boxes for result in detections.values()]))


def test_same_ground_truth_has_the_same_fingerprint(random_scene, find_objects):
    dataset, detections = random_scene(3)

    first = evaluate_detections(dataset, detections)
    second = evaluate_detections(dataset, find_objects(dataset, 1, 0.2))

    assert first.ground_truth == second.ground_truth


def test_moved_box_changes_the_fingerprint(annotations, dataset_of, detections_of):
    found = {"a": detections_of()}

    first = evaluate_detections(dataset_of({"a": annotations([[0, 0, 5, 5]], [0])}), found)
    second = evaluate_detections(dataset_of({"a": annotations([[0, 0, 5, 6]], [0])}), found)

    assert first.ground_truth != second.ground_truth


def test_missing_detections_are_named(annotations, dataset_of, detections_of):
    dataset = dataset_of({"a": annotations(), "b": annotations(), "c": annotations()})

    with pytest.raises(DataError, match=r"2 of 3 annotated images have no detections.*'b'"):
        evaluate_detections(dataset, {"a": detections_of()})


def test_dataset_without_classes_is_refused():
    with pytest.raises(DataError, match="dataset of 0 images has no class list"):
        evaluate_detections(Dataset(samples=()), {})


@pytest.mark.parametrize("label", [-1, 2])
def test_label_that_is_no_class_is_refused(label, annotations, dataset_of, detections_of):
    detections = {"a": detections_of([[0, 0, 5, 5]], [label], [0.5])}

    with pytest.raises(DataError, match=f"a: a detection has label {label}, but there are 2"):
        evaluate_detections(dataset_of({"a": annotations()}), detections)


@pytest.mark.parametrize(
    ("box", "score"), [([0, 0, 5, 5], float("nan")), ([0, 0, float("inf"), 5], 0.5)]
)
def test_values_that_are_not_finite_are_refused(box, score, annotations, dataset_of, detections_of):
    detections: dict[str, Detections] = {"a": detections_of([box], [0], [score])}

    with pytest.raises(DataError, match="a: a detection has a box or score that is not finite"):
        evaluate_detections(dataset_of({"a": annotations()}), detections)


@pytest.mark.parametrize(("label", "score"), [(7, 0.5), (1, float("nan"))])
def test_the_image_of_a_faulty_detection_is_named(
    label, score, annotations, dataset_of, detections_of
):
    box = [0, 0, 5, 5]
    detections = {
        "a": detections_of([box, box], [0, 1], [0.9, 0.8]),
        "b": detections_of(),
        "c": detections_of([box, box], [0, label], [0.9, score]),
        "d": detections_of([box], [0], [0.9]),
    }

    with pytest.raises(DataError, match=r"^c: a detection has"):
        evaluate_detections(dataset_of(dict.fromkeys("abcd", annotations())), detections)

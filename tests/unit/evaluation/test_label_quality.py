from collections import Counter

import pytest

from distildet.data.dataset import Dataset
from distildet.errors import DataError
from distildet.evaluation.label_quality import judge, label_quality


def quality(found: int, num_labels: int, num_objects: int) -> dict[str, float | int | None]:
    return {
        "precision": found / num_labels if num_labels else None,
        "recall": found / num_objects if num_objects else None,
        "num_labels": num_labels,
        "num_objects": num_objects,
    }


def without_classes(result) -> dict[str, float | int | None]:
    return {key: value for key, value in result.items() if key != "per_class"}


def test_precision_and_recall_by_hand(annotations, dataset_of, detections_of):
    # Cats: two of three found, one label in the void. Dogs: one box, labeled as a cat (wrong).
    dataset = dataset_of(
        {
            "a": annotations([[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]], [0, 0, 1]),
            "b": annotations([[0, 0, 10, 10]], [0]),
        }
    )
    labels = {
        "a": detections_of(
            [[0, 0, 10, 8], [60, 60, 70, 70], [40, 0, 50, 10]], [0, 0, 0], [0.9, 0.8, 0.7]
        ),
        "b": detections_of([[0, 0, 10, 10]], [0], [0.6]),
    }

    result = label_quality(dataset, labels)

    assert without_classes(result) == quality(2, 4, 4)
    assert result["per_class"] == {"cat": quality(2, 4, 3), "dog": quality(0, 0, 1)}


@pytest.mark.parametrize(("height", "found"), [(5.0, 1), (4.9, 0)])
def test_overlap_of_half_is_enough(height, found, annotations, dataset_of, detections_of):
    dataset = dataset_of({"a": annotations([[0, 0, 10, 10]], [0])})

    result = label_quality(dataset, {"a": detections_of([[0, 0, 10, height]], [0], [0.9])})

    assert without_classes(result) == quality(found, 1, 1)


def test_second_label_of_one_object_is_wrong(annotations, dataset_of, detections_of):
    dataset = dataset_of({"a": annotations([[0, 0, 10, 10]], [0])})
    twice = detections_of([[0, 0, 10, 10], [0, 0, 10, 9]], [0, 0], [0.9, 0.8])

    assert without_classes(label_quality(dataset, {"a": twice})) == quality(1, 2, 1)


def test_better_score_chooses_first(annotations, dataset_of, detections_of):
    # The first label takes the left box (IoU 0.9 against 0.6), the second finds only that one.
    dataset = dataset_of({"a": annotations([[0, 0, 10, 10], [0, 0, 10, 15]], [0, 0])})
    labels = detections_of([[0, 0, 10, 9], [0, 0, 10, 6]], [0, 0], [0.9, 0.8])

    # The second has IoU 0.6 with the taken box and 0.4 with the other.
    assert without_classes(label_quality(dataset, {"a": labels})) == quality(1, 2, 2)


def test_crowd_is_neither_to_be_found_nor_wrong(annotations, dataset_of, detections_of):
    dataset = dataset_of(
        {"a": annotations([[0, 0, 100, 100], [200, 0, 210, 10]], [0, 0], crowd=[True, False])}
    )
    # Two labels inside the crowd are ignored, one right, one half of whose area is not in it.
    labels = detections_of(
        [[0, 0, 10, 10], [50, 50, 60, 60], [200, 0, 210, 10], [95, 0, 115, 10]],
        [0, 0, 0, 0],
        [0.9, 0.8, 0.7, 0.6],
    )

    assert without_classes(label_quality(dataset, {"a": labels})) == quality(1, 2, 1)


def test_more_than_100_labels_in_an_image_all_count(annotations, dataset_of, detections_of):
    dataset = dataset_of({"a": annotations([[0, 0, 10, 10]], [0])})
    labels = detections_of([[50, 50, 60, 60]] * 149 + [[0, 0, 10, 10]], [0] * 150, [0.5] * 150)

    assert without_classes(label_quality(dataset, {"a": labels})) == quality(1, 150, 1)


@pytest.mark.parametrize("image_ids", [[], ["a"]])
def test_nothing_labeled_and_nothing_to_find_is_undefined(
    image_ids, annotations, dataset_of, detections_of
):
    dataset = dataset_of({image: annotations() for image in image_ids})

    result = label_quality(dataset, dict.fromkeys(image_ids, detections_of()))

    assert without_classes(result) == quality(0, 0, 0)
    assert result["per_class"] == {"cat": quality(0, 0, 0), "dog": quality(0, 0, 0)}


def overlap(box, other, *, is_crowd) -> float:
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(width, 0) * max(height, 0)
    area, other_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return shared / (area if is_crowd else area + other_area - shared)


def naive_counts(dataset, labels) -> tuple[Counter, Counter, Counter]:
    found, num_labels, num_objects = Counter(), Counter(), Counter()
    for sample in dataset.samples:
        drawn, guessed = sample.annotations, labels[sample.id]
        free = [i for i in range(len(drawn.labels)) if not drawn.crowd[i]]
        crowds = [i for i in range(len(drawn.labels)) if drawn.crowd[i]]
        num_objects.update(int(drawn.labels[i]) for i in free)
        for i in sorted(range(len(guessed)), key=lambda i: -float(guessed.scores[i])):
            box, label = guessed.boxes[i].double().tolist(), int(guessed.labels[i])
            near = {
                j: overlap(box, drawn.boxes[j], is_crowd=False)
                for j in free
                if drawn.labels[j] == label
            }
            best = max(near, key=near.__getitem__, default=None)
            if best is not None and near[best] >= 0.5:
                free.remove(best)
                found[label] += 1
                num_labels[label] += 1
            elif not any(
                drawn.labels[j] == label and overlap(box, drawn.boxes[j], is_crowd=True) >= 0.5
                for j in crowds
            ):
                num_labels[label] += 1
    return found, num_labels, num_objects


@pytest.mark.parametrize("seed", range(5))
def test_quality_equals_a_naive_loop(seed, random_scene):
    dataset, labels = random_scene(seed)

    result = label_quality(dataset, labels)

    found, num_labels, num_objects = naive_counts(dataset, labels)
    assert found.total() > 0
    assert without_classes(result) == quality(
        found.total(), num_labels.total(), num_objects.total()
    )
    assert result["per_class"] == {
        name: quality(found[label], num_labels[label], num_objects[label])
        for label, name in enumerate(dataset.classes)
    }


def test_image_without_pseudo_label_entry_is_named(annotations, dataset_of):
    with pytest.raises(DataError, match=r"1 of 1 annotated images have no detections.*'a'"):
        label_quality(dataset_of({"a": annotations()}), {})


def test_dataset_without_classes_is_refused():
    with pytest.raises(DataError, match="no class list"):
        label_quality(Dataset(samples=()), {})


def test_each_detection_is_judged_right_or_wrong(annotations, dataset_of, detections_of):
    # The first takes the cat, the second comes too late for it, the third is no dog. The fourth
    # lies in a crowd and is neither right nor wrong.
    dataset = dataset_of(
        {
            "a": annotations([[0, 0, 10, 10]], [0]),
            "b": annotations([[0, 0, 40, 40]], [0], crowd=[True]),
        }
    )
    found = {
        "a": detections_of(
            [[0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 10, 10]], [0, 0, 1], [0.75, 0.5, 0.25]
        ),
        "b": detections_of([[5, 5, 10, 10]], [0], [0.125]),
    }

    judged = judge(dataset, found)

    rows = zip(judged.scores, judged.labels, judged.is_right, strict=True)
    assert sorted(rows, reverse=True) == [(0.75, 0, True), (0.5, 0, False), (0.25, 1, False)]

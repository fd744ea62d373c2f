import pytest

from distildet.classes import ClassList
from distildet.pseudolabels.export import stored_records

CLASSES = ClassList(("cat", "dog"))


def test_a_record_holds_what_was_stored(labels_of):
    stored = {"sub/a.jpg": labels_of([(1, 2, 4, 8), (0, 0, 5, 5)], [0.75, 0.25], [1, 0])}

    (record,) = stored_records(stored, CLASSES)

    assert (record.name, record.size) == ("sub/a.jpg", (48, 64))
    assert record.boxes.tolist() == [[1, 2, 4, 8], [0, 0, 5, 5]]
    assert record.labels.tolist() == [1, 0]
    assert record.areas.tolist() == [18, 25]
    assert record.crowd.tolist() == [False, False]
    assert record.scores.tolist() == [0.75, 0.25]


def test_images_keep_their_order_and_stay_without_boxes(labels_of):
    stored = {"b.jpg": labels_of(), "a.jpg": labels_of(scores=[0.5]), "c.jpg": labels_of()}

    records = stored_records(stored, CLASSES)

    assert [record.name for record in records] == ["b.jpg", "a.jpg", "c.jpg"]
    assert [len(record) for record in records] == [0, 1, 0]
    assert records[0].boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("thresholds", "scores"),
    [
        (None, [0.9, 0.7, 0.3]),
        ({"cat": 0.0, "dog": 0.0}, [0.9, 0.7, 0.3]),
        ({"cat": 0.5, "dog": 0.5}, [0.9, 0.7]),
        ({"cat": 0.95, "dog": 0.7}, [0.7]),
        # 0.7 in float32 is below 0.7 in float64; the score still is what the threshold says.
        ({"cat": 0.7, "dog": 0.7}, [0.9, 0.7]),
        ({"cat": 1.0, "dog": 1.0}, []),
    ],
)
def test_each_class_has_its_own_threshold(thresholds, scores, labels_of):
    stored = {"a.jpg": labels_of(scores=[0.9, 0.7, 0.3], labels=[0, 1, 0])}

    (record,) = stored_records(stored, CLASSES, thresholds=thresholds)

    assert record.scores.tolist() == pytest.approx(scores)


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ((-1, -2, 10, 10), [[0, 0, 10, 10]]),
        ((60, 40, 65, 50), [[60, 40, 64, 48]]),  # 64 wide, 48 high
        ((70, 0, 80, 10), []),
        ((5, 5, 5, 9), []),
        ((9, 9, 5, 5), []),
    ],
)
def test_boxes_end_at_the_edge_of_their_image(box, clipped, labels_of):
    (record,) = stored_records({"a.jpg": labels_of([box], [0.5])}, CLASSES)

    assert record.boxes.tolist() == clipped
    assert len(record.scores) == len(record.areas) == len(record) == len(clipped)


def test_stored_tensors_are_not_changed(labels_of):
    entry = labels_of([(-1, -1, 100, 100)], [0.5])

    stored_records({"a.jpg": entry}, CLASSES)

    assert entry.detections.boxes.tolist() == [[-1, -1, 100, 100]]

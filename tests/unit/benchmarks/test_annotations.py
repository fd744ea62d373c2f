"""Oracles: documents by hand."""

import importlib

import pytest

DOCUMENT = {
    "images": [{"id": number, "file_name": f"{number:03}.jpg"} for number in (5, 1, 2, 3, 4, 6)],
    "categories": [{"id": 10, "name": "bolt"}, {"id": 20, "name": "nut"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 10},
        {"id": 2, "image_id": 2, "category_id": 10},
        {"id": 3, "image_id": 3, "category_id": 10},
        {"id": 4, "image_id": 4, "category_id": 20},
        {"id": 5, "image_id": 5, "category_id": 20},
        {"id": 6, "image_id": 5, "category_id": 10},
    ],
    "licences": ["kept"],
}


@pytest.fixture
def derived(project, monkeypatch):
    monkeypatch.syspath_prepend(project / "benchmarks")
    return importlib.import_module("annotations").derived


def ids(document, key):
    return [one["id"] for one in document[key]]


def test_of_some_classes_all_images_and_their_boxes_are_kept(derived):
    found = derived(DOCUMENT, classes=["bolt"])

    assert ids(found, "categories") == [10]
    assert ids(found, "images") == ids(DOCUMENT, "images")
    assert ids(found, "annotations") == [1, 2, 3, 6]
    assert found["licences"] == ["kept"]


@pytest.mark.parametrize(
    ("half", "images", "boxes"),
    # Bolts: 1, 2, 3; nuts: 4, 5; none: 6.
    [("first", [1, 4], [1, 4]), ("last", [2, 3, 5, 6], [2, 3, 5, 6])],
)
def test_halves_share_out_the_frames_of_each_class_in_order(derived, half, images, boxes):
    found = derived(DOCUMENT, half=half)

    assert ids(found, "images") == images
    assert ids(found, "annotations") == boxes
    assert found["categories"] == DOCUMENT["categories"]


def test_a_class_that_is_not_there_is_refused(derived):
    with pytest.raises(ValueError, match=r"There are no classes screw\."):
        derived(DOCUMENT, classes=["nut", "screw"])

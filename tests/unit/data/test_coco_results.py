"""Detections in files."""

import json

import pytest

from distildet.data.coco_results import read_results
from distildet.errors import DataError

IMAGES = [
    {"id": 7, "file_name": "a.jpg", "height": 300, "width": 400},
    {"id": 9, "file_name": "sub/b.jpg", "height": 300, "width": 400},
]
CATEGORIES = [{"id": 5, "name": "dog"}, {"id": 2, "name": "car"}]
BOX = {"image_id": 7, "category_id": 5, "bbox": [10, 20, 30.5, 40], "score": 0.25}


@pytest.fixture
def write(tmp_path):
    def run(name, content):
        (tmp_path / name).write_text(json.dumps(content))
        return tmp_path / name

    return run


@pytest.fixture
def naming(write):
    return write("instances.json", {"images": IMAGES, "categories": CATEGORIES})


def test_a_list_is_named_by_a_coco_file(write, naming):
    results = read_results(write("boxes.json", [BOX]), naming)

    assert list(results.classes) == ["car", "dog"]
    assert list(results.by_name) == ["a.jpg", "sub/b.jpg"]
    found = results.by_name["a.jpg"]
    assert found.boxes.tolist() == [[10.0, 20.0, 40.5, 60.0]]
    assert found.scores.tolist() == [0.25]
    assert found.labels.tolist() == [1]
    assert found.size == (300, 400)
    assert results.by_name["sub/b.jpg"].boxes.shape == (0, 4)


def test_a_coco_file_with_scores_names_its_images_itself(write):
    document = {"images": IMAGES, "annotations": [BOX], "categories": CATEGORIES}

    results = read_results(write("boxes.json", document))

    assert results.by_name["a.jpg"].boxes.tolist() == [[10.0, 20.0, 40.5, 60.0]]


def test_an_empty_list_says_that_nothing_was_found(write, naming):
    results = read_results(write("boxes.json", []), naming)

    assert [len(found.boxes) for found in results.by_name.values()] == [0, 0]


def test_a_list_alone_names_nothing(write):
    with pytest.raises(DataError, match=r"boxes\.json: a list of results has ids alone\. Give `im"):
        read_results(write("boxes.json", [BOX]))


def test_a_file_that_names_its_images_needs_no_other(write, naming):
    document = {"images": IMAGES, "annotations": [BOX], "categories": CATEGORIES}

    with pytest.raises(DataError, match=r"instances\.json: not needed, since .*boxes\.json names"):
        read_results(write("boxes.json", document), naming)


def test_annotations_without_scores_are_no_results(write):
    plain = {key: value for key, value in BOX.items() if key != "score"}
    document = {"images": IMAGES, "annotations": [plain], "categories": CATEGORIES}

    with pytest.raises(DataError, match=r"'score' must be a number 0\.\.1 \(1\): annotations\[0\]"):
        read_results(write("boxes.json", document))


def test_a_naming_file_needs_images_and_categories_alone(write):
    naming = write("instances.json", {"images": IMAGES})

    with pytest.raises(DataError, match=r"'categories' is missing\. A COCO file is an object with"):
        read_results(write("boxes.json", [BOX]), naming)


def test_all_faults_of_records_are_told_at_once(write, naming):
    wrong = [
        {**BOX, "image_id": 8},
        {**BOX, "image_id": True},
        {**BOX, "category_id": 1},
        {**BOX, "bbox": [1, 2, 3]},
        {**BOX, "bbox": [1, 2, -3, 4]},
        {**BOX, "bbox": [1, 2, 10**400, 4]},
        {**BOX, "score": 1.5},
        "box",
    ]

    with pytest.raises(DataError) as told:
        read_results(write("boxes.json", wrong), naming)

    message = str(told.value)
    assert (
        "'image_id' must be the id of an image (2): records[0] has 8; records[1] has Tr" in message
    )
    assert "'category_id' must be the id of a category (1): records[2] has 1" in message
    assert "'bbox' must be four finite numbers, x y width height in pixels, sides of 0" in message
    assert "(3): records[3] has [1, 2, 3]; records[4] has [1, 2, -3, 4]; records[5]" in message
    assert "'score' must be a number 0..1 (1): records[6] has 1.5" in message
    assert "each must be an object (1): records[7] is 'box'" in message


def test_boxes_in_shares_of_the_image_are_told(write, naming):
    shares = [{**BOX, "bbox": [0.1, 0.2, 0.3, 0.4]}] * 3

    with pytest.raises(DataError, match="must be in pixels, but seems to be in shares"):
        read_results(write("boxes.json", shares), naming)


def test_corners_in_the_place_of_sides_are_told(write, naming):
    corners = [{**BOX, "bbox": [200, 200, 390, 290]}] * 3

    with pytest.raises(DataError, match="seems to be the corners x1 y1 x2 y2"):
        read_results(write("boxes.json", corners), naming)

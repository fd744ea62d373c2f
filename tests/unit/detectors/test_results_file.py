"""Files of boxes as detectors."""

import json

import pytest
import torch
from PIL import Image

from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.detectors.results_file import ResultsDetector
from distildet.errors import DataError
from distildet.structures import DETECTIONS


@pytest.fixture
def results(tmp_path):
    """Write a file that finds one box in each named image of 40x30 pixels."""

    def write(*names, size=(30, 40)):
        document = {
            "images": [
                {"id": i, "file_name": name, "height": size[0], "width": size[1]}
                for i, name in enumerate(names)
            ],
            "annotations": [
                {"image_id": i, "category_id": 3, "bbox": [i, 2, 10, 20], "score": 0.5}
                for i in range(len(names))
            ],
            "categories": [{"id": 3, "name": "car"}],
        }
        (tmp_path / "boxes.json").write_text(json.dumps(document))
        return ResultsDetector(tmp_path / "boxes.json")

    return write


def answers(detector, *image_ids, size=(30, 40)):
    views = [fit_view(torch.zeros(3, *size, dtype=torch.uint8), 32) for _ in image_ids]
    return detector(collate(views, image_ids), want={DETECTIONS}).detections


def test_boxes_are_in_the_image_frame_whatever_the_view(results):
    found = answers(results("a.jpg"), "a.jpg")[0]

    # x y width height 0 2 10 20.
    assert found.boxes.tolist() == [[0.0, 2.0, 10.0, 22.0]]
    assert found.scores.tolist() == [0.5]
    assert found.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("names", "image_id"),
    [
        (("b.jpg", "a.jpg"), "a.jpg"),
        (("b.jpg", "a.jpg"), "photos/a.jpg"),
        (("b.jpg", "train/a.jpg"), "a.jpg"),
        (("x/a.jpg", "train/a.jpg"), "photos/train/a.jpg"),
        # The whole name goes before its end.
        (("train/a.jpg", "a.jpg"), "a.jpg"),
    ],
)
def test_an_image_is_found_by_the_parts_of_its_path(results, names, image_id):
    found = answers(results(*names), image_id)[0]

    # The box of the second image begins at 1.
    assert found.boxes.tolist() == [[1.0, 2.0, 11.0, 22.0]]


def test_an_image_that_is_not_listed_has_a_fault_and_no_result(results):
    detector = results("a.jpg")

    listed, other = answers(detector, "a.jpg", "b.jpg")

    assert listed.fault is None
    assert other.fault.startswith("b.jpg: not processed: ")
    assert "boxes.json does not list this image" in other.fault
    # "ba.jpg" ends like "a.jpg", and is another.
    assert answers(detector, "ba.jpg")[0].fault is not None


def test_an_image_without_a_box_is_a_result(tmp_path):
    document = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 30, "width": 40}],
        "annotations": [],
        "categories": [{"id": 1, "name": "car"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))

    found = answers(ResultsDetector(tmp_path / "boxes.json"), "a.jpg")[0]

    assert found.fault is None
    assert len(found) == 0


@pytest.mark.parametrize(
    ("size", "says"),
    [((30, 50), "states 50x30 pixels, but the image has 40x30"), ((40, 30), "EXIF")],
)
def test_boxes_of_another_version_of_an_image_are_not_taken(results, size, says):
    found = answers(results("a.jpg", size=size), "a.jpg")[0]

    assert says in found.fault
    assert len(found) == 0


def test_names_that_fit_several_images_are_refused(results):
    with pytest.raises(DataError, match=r"for the image 'a\.jpg' it has several that fit: 'x/a"):
        answers(results("x/a.jpg", "y/a.jpg"), "a.jpg")


def test_a_name_that_stands_for_two_images_is_refused_before_any_work(results):
    detector = results("a.jpg")

    with pytest.raises(DataError, match=r"its image 'a\.jpg' may be 'x/a\.jpg' or 'y/a\.jpg'"):
        detector.expect(["x/a.jpg", "y/a.jpg"])


def test_a_name_that_was_taken_for_another_image_is_refused_later(results):
    detector = results("a.jpg")
    detector.expect(["x/a.jpg"])

    with pytest.raises(DataError, match=r"its image 'a\.jpg' may be 'x/a\.jpg' or 'a\.jpg'"):
        detector.expect(["a.jpg"])


def test_a_whole_name_is_never_taken_for_the_end_of_another(results):
    detector = results("a.jpg")
    detector.expect(["x/a.jpg", "a.jpg"])

    other, own = answers(detector, "x/a.jpg", "a.jpg")

    assert "not processed" in other.fault
    assert own.fault is None


def test_predict_finds_files_by_their_path(results, tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg")
    detector = results("a.jpg")

    found = detector.predict([tmp_path / "a.jpg"])[0]

    assert len(found) == 1
    with pytest.raises(DataError, match=r"other\.jpg: not processed"):
        detector.predict([tmp_path / "a.jpg"], names=["other.jpg"])


def test_the_fingerprint_is_that_of_the_files(results):
    first = results("a.jpg").fingerprint

    assert results("b.jpg").fingerprint != first
    assert results("a.jpg").fingerprint == first

"""Functions as detectors."""

import numpy as np
import pytest
import torch

from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.detectors.bundle import save_detector
from distildet.detectors.callable_detector import CallableDetector
from distildet.errors import ConfigError, DataError
from distildet.structures import DETECTIONS

ONE = ([[10, 20, 30, 40]], [0.9], [1])


def made(function, **options):
    named = {"classes": ["car", "bus"], "name": "mine", "version": "1"}
    return CallableDetector(function, **{**named, **options})


def returning(*results):
    return made(lambda images: list(results))


def photo(height, width):
    return np.arange(height * width * 3, dtype=np.uint8).reshape(height, width, 3)


def test_a_function_gets_images_as_they_are():
    seen = []

    def function(images):
        seen.extend(images)
        return [ONE, ONE]

    first, second = photo(50, 60), photo(45, 37)

    found = made(function).predict([first, second])

    assert [image.dtype for image in seen] == [np.uint8, np.uint8]
    assert np.array_equal(seen[0], first)
    assert np.array_equal(seen[1], second)
    assert found[0].boxes.tolist() == [[10.0, 20.0, 30.0, 40.0]]
    assert found[0].labels.tolist() == [1]


def test_boxes_of_scaled_images_come_back():
    shapes = []

    def function(images):
        shapes.extend(image.shape for image in images)
        return [ONE]

    found = made(function, image_size=50).predict([photo(80, 100)])

    assert shapes == [(40, 50, 3)]
    assert found[0].boxes.tolist() == [[20.0, 40.0, 60.0, 80.0]]


@pytest.mark.parametrize(
    "result",
    [
        ONE,
        tuple(map(np.array, ONE)),
        tuple(map(torch.tensor, ONE)),
        {"boxes": ONE[0], "scores": ONE[1], "labels": ONE[2], "masks": None},
    ],
)
def test_results_may_be_lists_arrays_tensors_and_mappings(result):
    found = returning(result).predict([photo(50, 60)])[0]

    assert found.boxes.tolist() == [[10.0, 20.0, 30.0, 40.0]]
    assert found.scores.tolist() == [pytest.approx(0.9)]
    assert found.labels.tolist() == [1]


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_results_may_be_detections_of_supervision():
    supervision = pytest.importorskip("supervision")
    result = supervision.Detections(
        xyxy=np.array([[10.0, 20, 30, 40]]), confidence=np.array([0.9]), class_id=np.array([1])
    )

    found, nothing = returning(result, supervision.Detections.empty()).predict(
        [photo(50, 60), photo(50, 60)]
    )

    assert found.boxes.tolist() == [[10.0, 20.0, 30.0, 40.0]]
    assert found.labels.tolist() == [1]
    assert len(nothing) == 0


@pytest.mark.filterwarnings("ignore:OpenCV")
def test_detections_of_supervision_without_scores_are_told():
    supervision = pytest.importorskip("supervision")
    result = supervision.Detections(xyxy=np.array([[10.0, 20, 30, 40]]))

    with pytest.raises(DataError, match="mine 1: for image '0' there are no scores"):
        returning(result).predict([photo(50, 60)])


def test_detections_are_sorted_clipped_and_have_an_area():
    boxes = [[-5, 10, 30, 90], [70, 10, 90, 30], [0, 0, 10, 10]]

    found = returning((boxes, [0.5, 0.6, 0.7], [0, 0, 1])).predict([photo(50, 60)])[0]

    # The second box is right of the 60 columns of the image.
    assert found.boxes.tolist() == [[0.0, 0.0, 10.0, 10.0], [0.0, 10.0, 30.0, 50.0]]


def test_no_boxes_are_a_result():
    assert len(returning(([], [], [])).predict([photo(50, 60)])[0]) == 0


def test_numbers_that_are_not_finite_are_told_apart():
    detector = returning(([[0, 0, float("nan"), 5]], [0.9], [0]))
    batch = collate([fit_view(torch.zeros(3, 9, 9, dtype=torch.uint8), "original")], ["a"])

    found = detector(batch, want={DETECTIONS}).detections[0]

    assert not found.is_finite


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (None, "for image '0' a NoneType was returned. Accepted for each image"),
        ((ONE[0], ONE[1]), "for image '0' a tuple was returned"),
        (([1, 2, 3], [0.9], [1]), r"for image '0' boxes are \[3\]\. Accepted: \[n 4\]"),
        ((ONE[0], [0.9, 0.8], [1]), r"scores are \[2\] and boxes \[1, 4\]"),
        ((ONE[0], [0.9], [1, 1]), r"labels are \[2\] and boxes \[1, 4\]"),
        ((ONE[0], [90], [1]), r"a score is 90\. Accepted: 0\.\.1"),
        ((ONE[0], [0.9], [2]), r"a label is 2\. Accepted: whole numbers 0\.\.1"),
        ((ONE[0], [0.9], [0.5]), r"a label is 0\.5\."),
        (([[30, 20, 10, 40]], [0.9], [1]), r"a box is \[30\.0, 20\.0, 10\.0, 40\.0\], which ends"),
        ((ONE[0], ["high"], [1]), "scores are no numbers"),
    ],
)
def test_results_that_are_none_name_the_image(result, says):
    with pytest.raises(DataError, match=rf"mine 1: .*{says}"):
        returning(result).predict([photo(50, 60)])


@pytest.mark.parametrize(("result", "says"), [([], "0 results for 1"), (7, "a int for 1 images")])
def test_every_image_needs_a_result(result, says):
    with pytest.raises(DataError, match=f"mine 1: returned {says}.*Return a list with one for eac"):
        made(lambda images: result).predict([photo(50, 60)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": " "}, "name is empty"),
        ({"version": ""}, "version is empty"),
        ({"image_size": 0}, "image_size is 0. Accepted: 1 or more"),
    ],
)
def test_options_without_a_meaning_are_refused(options, says):
    with pytest.raises(ConfigError, match=f"CallableDetector: {says}"):
        made(list, **options)


def test_the_fingerprint_is_that_of_what_the_caller_states():
    plain = made(list).fingerprint

    assert made(len).fingerprint == plain
    assert made(list, version="2").fingerprint != plain
    assert made(list, classes=["bus", "car"]).fingerprint != plain
    assert made(list, image_size=640).fingerprint != plain


def test_a_function_cannot_be_saved_as_a_bundle(tmp_path):
    with pytest.raises(ConfigError, match=r"mine 1 \(callable\) has no weights that a bundle"):
        save_detector(made(list), tmp_path / "bundle")

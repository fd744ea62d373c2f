"""Synthetic scenes: the same for a seed, labeled rightly, readable as a data set."""

import math

import numpy as np
import pytest

from distildet.data.coco import read_coco
from distildet.data.synthetic import SHAPES, make_scenes
from distildet.errors import ConfigError, DataError


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Forty scenes of all classes, as a data set."""
    folder = tmp_path_factory.mktemp("made") / "scenes"
    return read_coco(folder, make_scenes(folder, images=40, seed=0, size=96), strict=True)


def test_the_same_arguments_give_the_same_files(tmp_path):
    for name in ("x", "y"):
        make_scenes(tmp_path / name, images=3, seed=4, size=48)

    assert contents(tmp_path / "x") == contents(tmp_path / "y")


def test_another_seed_gives_other_images(tmp_path):
    for seed in (0, 1):
        make_scenes(tmp_path / str(seed), images=1, seed=seed, size=48)

    first, second = contents(tmp_path / "0"), contents(tmp_path / "1")
    assert first["000000.jpg"] != second["000000.jpg"]


def test_an_image_does_not_depend_on_how_many_follow(tmp_path):
    for count in (1, 3):
        make_scenes(tmp_path / str(count), images=count, seed=0, size=48)

    short, long = contents(tmp_path / "1"), contents(tmp_path / "3")
    assert short["000000.jpg"] == long["000000.jpg"]


def test_every_class_occurs(scenes):
    labels = np.concatenate([sample.annotations.labels for sample in scenes.samples])

    assert scenes.classes.names == SHAPES
    assert set(labels.tolist()) == set(range(5))


def test_the_box_of_a_circle_is_square_and_its_area_that_of_a_circle(scenes):
    boxes = np.concatenate([sample.annotations.boxes for sample in scenes.samples])
    areas = np.concatenate([sample.annotations.areas for sample in scenes.samples])
    labels = np.concatenate([sample.annotations.labels for sample in scenes.samples])
    is_inside = (boxes.min(1) > 0) & (boxes.max(1) < 96) & (labels == SHAPES.index("circle"))
    sides = (boxes[:, 2:] - boxes[:, :2])[is_inside]

    assert len(sides) > 5
    assert sides[:, 0] == pytest.approx(sides[:, 1], abs=0.5)
    # Edge pixels make small circles a little larger.
    assert areas[is_inside] == pytest.approx(math.pi / 4 * sides.prod(1), rel=0.25)


def test_classes_can_be_chosen(tmp_path):
    annotations = make_scenes(
        tmp_path / "x", images=5, seed=0, size=48, classes=("triangle", "circle")
    )

    assert read_coco(tmp_path / "x", annotations).classes.names == ("triangle", "circle")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images is 0, accepted is 1"),
        ({"size": 31}, "size is 31, accepted is 32"),
        ({"classes": ()}, r"classes is \[\], accepted is at least one shape"),
        ({"classes": ("circle", "circle")}, "each once"),
        ({"classes": ("cirle",)}, "Unknown shape 'cirle'.*Did you mean 'circle'"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        make_scenes(tmp_path / "x", **{"images": 1, "seed": 0, **options})


def test_a_folder_that_exists_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(DataError, match=r"exists already\. Remove it"):
        make_scenes(tmp_path, images=1, seed=0)

    assert contents(tmp_path) == {"notes.txt": b"mine"}

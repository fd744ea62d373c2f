"""Sources of images in every format, from the recipe to the images of a run."""

from typing import get_args

import pytest
from PIL import Image

from distildet.data.annotated import READERS
from distildet.errors import DataError
from distildet.recipes.run_data import load_run_data
from distildet.recipes.source_schema import (
    ANNOTATIONS_BY_FORMAT,
    AnnotatedSourceConfig,
    DataConfig,
)

VOC = (
    "<annotation><size><width>20</width><height>10</height></size><object><name>dog</name><bndbox>"
    "<xmin>4</xmin><ymin>3</ymin><xmax>6</xmax><ymax>7</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def load(tmp_path):
    """Give a function that reads sources of a.png and b.png, of which a.png is annotated."""
    for name in ("images", "labels", "xml"):
        (tmp_path / name).mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / name)
    (tmp_path / "xml" / "a.xml").write_text(VOC)
    (tmp_path / "data.yaml").write_text("names: [dog]")
    (tmp_path / "labels" / "a.txt").write_text("0 0.25 0.5 0.1 0.4\n0 0.25 0.5 0.1 0\n")

    def load_with(**sections):
        raw = {"image_size": "64", **sections}
        return load_run_data(DataConfig.model_validate(raw, context={"folder": tmp_path}))

    return load_with


VOC_SOURCE = {"format": "voc", "images": "images", "annotations": "xml"}
YOLO_SOURCE = {"format": "yolo", "images": "images", "annotations": "data.yaml"}


def test_recipes_take_every_format_that_can_be_read():
    in_recipes = get_args(AnnotatedSourceConfig.model_fields["format"].annotation)

    assert tuple(READERS) == in_recipes == tuple(ANNOTATIONS_BY_FORMAT)


@pytest.mark.parametrize("source", [VOC_SOURCE, YOLO_SOURCE])
def test_labeled_images_may_have_any_format(load, source):
    data = load(labeled=source)

    assert data.labeled.classes.names == ("dog",)
    assert data.labeled.samples[0].annotations.boxes.tolist() == [[4, 3, 6, 7]]
    assert "1 images without" in " ".join(data.remarks())


@pytest.mark.parametrize("source", [VOC_SOURCE, YOLO_SOURCE])
def test_of_unlabeled_images_those_without_label_file_are_taken_too(load, source):
    data = load(unlabeled=[source])

    samples = [(sample.id, sample.annotations) for sample in data.unlabeled.samples]
    assert samples == [("a.png", None), ("b.png", None)]
    assert data.remarks() == []


@pytest.mark.parametrize("source", [VOC_SOURCE, YOLO_SOURCE])
def test_faults_in_labels_of_unlabeled_images_do_not_matter(load, source, tmp_path):
    for name in ("xml/a.xml", "labels/a.txt", "data.yaml"):
        (tmp_path / name).write_text("{ no labels")

    assert len(load(unlabeled=[{**source, "strict": "true"}]).unlabeled) == 2


def test_strict_reading_is_passed_on(load):
    with pytest.raises(DataError, match=r"records must be usable.*a\.txt:2: no area"):
        load(labeled={**YOLO_SOURCE, "strict": "true"})

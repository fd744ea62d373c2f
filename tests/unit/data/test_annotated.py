"""One entry for all annotation formats."""

import json

import pytest
from PIL import Image

from distildet.data.annotated import read_annotated
from distildet.errors import ConfigError

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 20, "height": 10}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 3, 2, 4]}],
    "categories": [{"id": 1, "name": "dog"}],
}
VOC = (
    "<annotation><size><width>20</width><height>10</height></size><object><name>dog</name><bndbox>"
    "<xmin>4</xmin><ymin>3</ymin><xmax>6</xmax><ymax>7</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def folder(tmp_path):
    """The same image and box in each format."""
    for name in ("images", "labels", "voc"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "images" / "a.png")
    (tmp_path / "coco").write_text(json.dumps(COCO))
    (tmp_path / "voc" / "a.xml").write_text(VOC)
    (tmp_path / "yolo").write_text("names: [dog]")
    (tmp_path / "labels" / "a.txt").write_text("0 0.25 0.5 0.1 0.4")
    return tmp_path


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_every_format_gives_the_same(folder, name):
    dataset = read_annotated(name, folder / "images", folder / name, root=folder)

    assert [sample.id for sample in dataset.samples] == ["images/a.png"]
    assert dataset.samples[0].annotations.boxes.tolist() == [[4, 3, 6, 7]]
    assert dataset.classes.names == ("dog",)


def test_an_unknown_format_is_refused_with_the_nearest_one(tmp_path):
    with pytest.raises(ConfigError, match=r"format 'yolov5'\. Accepted: coco, voc, yolo\. Did you"):
        read_annotated("yolov5", tmp_path, tmp_path)

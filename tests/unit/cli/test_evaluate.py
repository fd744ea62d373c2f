"""`distildet evaluate` on images whose boxes are written in each of the formats."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distildet.classes import ClassList
from distildet.cli.app import app
from distildet.detectors.bundle import build_detector, save_detector

COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 32}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 32, 16]}],
    "categories": [{"id": 1, "name": "car"}],
}
VOC = (
    "<annotation><size><width>64</width><height>32</height></size><object><name>car</name><bndbox>"
    "<xmin>8</xmin><ymin>8</ymin><xmax>40</xmax><ymax>24</ymax></bndbox></object></annotation>"
)


@pytest.fixture
def evaluate(tmp_path):
    """Give a function that runs the command on one image and the boxes of a format."""
    for name in ("images", "labels", "voc"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 32)).save(tmp_path / "images" / "a.png")
    (tmp_path / "coco").write_text(json.dumps(COCO))
    (tmp_path / "voc" / "a.xml").write_text(VOC)
    (tmp_path / "yolo").write_text("names: [car]")
    (tmp_path / "labels" / "a.txt").write_text("0 0.375 0.5 0.5 0.5")
    torch.manual_seed(0)
    detector = build_detector(
        "retinanet",
        classes=ClassList(("car", "sofa")),
        backbone="test_efficientnet",
        image_size=64,
        neck_channels=8,
        head_depth=1,
    )
    save_detector(detector, tmp_path / "model")

    def run(*options):
        command = ["evaluate", str(tmp_path / "model"), "--images", str(tmp_path / "images")]
        return CliRunner().invoke(app, [*command, "--workers", "0", "--device", "cpu", *options])

    return run


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_boxes_in_every_format_are_measured_on(evaluate, tmp_path, name):
    done = evaluate("--annotations", str(tmp_path / name), "--format", name, "--json")

    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["per_class"].keys() == {"car", "sofa"}


def test_coco_is_the_format_where_none_is_given(evaluate, tmp_path):
    assert evaluate("--annotations", str(tmp_path / "coco")).exit_code == 0


def test_images_that_are_left_out_are_told(evaluate, tmp_path):
    Image.new("RGB", (64, 32)).save(tmp_path / "images" / "b.png")

    done = evaluate("--annotations", str(tmp_path / "voc"), "--format", "voc")

    assert f"Left out: {tmp_path}/voc: 1 images without an XML file" in done.stdout


def test_classes_that_are_matched_by_alias_are_told(evaluate, tmp_path):
    (tmp_path / "coco").write_text(json.dumps({**COCO, "categories": [{"id": 1, "name": "couch"}]}))

    done = evaluate("--annotations", str(tmp_path / "coco"))

    assert "classes counted under another name for the same: couch as sofa" in done.stdout


def test_an_unknown_format_is_refused(evaluate, tmp_path):
    done = evaluate("--annotations", str(tmp_path / "voc"), "--format", "pascal")

    assert done.exit_code == 2
    assert "'pascal' is not one of 'coco', 'voc', 'yolo'" in done.stderr

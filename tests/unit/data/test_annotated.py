"""One entry for all annotation formats."""

import json

import pytest
from PIL import Image

from distildet.data.annotated import read_annotated, read_unlabeled
from distildet.errors import ConfigError, DataError

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


@pytest.fixture
def pool(tmp_path):
    """Images a.png, b.png and sub/b.jpg, the first two of them named by a COCO file."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/b.jpg"):
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / name)
    records = [{"file_name": name} for name in ("b.png", "a.png", "./b.png")]
    (tmp_path / "coco").write_text(json.dumps({"images": records}))
    (tmp_path / "list").write_text("b.png\n")
    (tmp_path / "stems").write_text("sub/b  1\nb.png\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "annotations", "listed", "expected"),
    [
        ("coco", "coco", None, ["b.png", "a.png"]),
        ("coco", "coco", "list", ["b.png"]),
        ("voc", "missing", None, ["a.png", "b.png", "sub/b.jpg"]),
        ("voc", "missing", "list", ["b.png"]),
        ("voc", "missing", "stems", ["sub/b.jpg", "b.png"]),
        ("yolo", "missing", None, ["a.png", "b.png", "sub/b.jpg"]),
        ("yolo", "missing", "list", ["b.png"]),
    ],
)
def test_unlabeled_images_are_those_that_are_there_or_named(
    pool, name, annotations, listed, expected
):
    dataset = read_unlabeled(
        name,
        pool / "images",
        pool / annotations,
        listed=None if listed is None else pool / listed,
        root=pool,
    )

    assert [sample.id for sample in dataset.samples] == [f"images/{one}" for one in expected]
    assert {sample.annotations for sample in dataset.samples} == {None}
    assert dataset.classes is None


def test_one_name_without_suffix_stands_for_every_unlabeled_image_of_that_name(pool):
    Image.new("RGB", (20, 10)).save(pool / "images" / "a.jpg")
    (pool / "list").write_text("a\n")

    dataset = read_unlabeled("voc", pool / "images", pool / "xml", listed=pool / "list")

    assert [sample.id for sample in dataset.samples] == ["a.jpg", "a.png"]


def test_unlabeled_images_without_annotations_are_those_of_the_folder(pool):
    assert len(read_unlabeled("folder", pool / "images", None)) == 3


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "coco: 'images' is no list with records"),
        ({"images": []}, "coco: 'images' is no list with records"),
        ({"images": [{"file_name": "../a.png"}, 3]}, r"must be relative(.|\n)*\.\./a\.png(.|\n)*3"),
        (
            {"images": [{"file_name": "b.png"}, {"file_name": "gone.png"}]},
            r"image files must be in .*'gone\.png'",
        ),
        ({"images": [{"file_name": "a.png"}]}, r"listed in .* must have a record.*'b\.png'"),
    ],
)
def test_unlabeled_images_that_a_file_does_not_name_well_are_refused(pool, document, message):
    (pool / "coco").write_text(json.dumps(document))
    (pool / "list").write_text("b.png\ngone.png\n")

    with pytest.raises(DataError, match=message):
        read_unlabeled("coco", pool / "images", pool / "coco", listed=pool / "list")


def test_listed_names_without_an_unlabeled_image_are_refused(pool):
    (pool / "stems").write_text("c\n")

    with pytest.raises(DataError, match=r"must be those of images.*'c'"):
        read_unlabeled("voc", pool / "images", pool / "xml", listed=pool / "stems")

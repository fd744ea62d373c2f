"""`distildet convert` from and to each format."""

import json
import shutil

import pytest
from PIL import Image
from typer.testing import CliRunner

from distildet.cli.app import app
from distildet.cli.export_options import IMAGE_PREFIX, ExportFormat
from distildet.data.annotated import read_annotated
from distildet.data.write_label_studio import LabelStudioOptions
from distildet.errors import ConfigError, DataError

COCO = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 32},
        {"id": 2, "file_name": "sub/b.png", "width": 64, "height": 32},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 2, "bbox": [8, 8, 32, 16]},
        {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 0, 0]},
        {"id": 3, "image_id": 2, "category_id": 1, "bbox": [1, 2, 3, 4], "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "bus"}, {"id": 2, "name": "car"}],
}
PLACES = {"coco": "labels.json", "voc": "Annotations", "yolo": "data.yaml"}


@pytest.fixture
def convert(tmp_path):
    """Give a function that runs the command on two images and their COCO file."""
    for name in ("images/a.png", "images/sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 32)).save(tmp_path / name)
    (tmp_path / "coco.json").write_text(json.dumps(COCO))

    def run(*options, images=tmp_path / "images", annotations=tmp_path / "coco.json"):
        command = ["convert", "--images", str(images), "--annotations", str(annotations)]
        return CliRunner().invoke(app, [*command, *map(str, options)])

    return run


def names_and_boxes(dataset):
    return {
        sample.id: [
            (dataset.classes[label], *box)
            for label, box in zip(
                sample.annotations.labels, sample.annotations.boxes.tolist(), strict=True
            )
        ]
        for sample in dataset.samples
    }


@pytest.mark.parametrize(
    ("to", "of_b"),
    [("coco", [("bus", 1, 2, 4, 6)]), ("voc", [("bus", 1, 2, 4, 6)]), ("yolo", [])],
)
def test_boxes_are_read_again_from_each_format(convert, tmp_path, to, of_b):
    done = convert("--to", to, "--out", tmp_path / "out")

    assert done.exit_code == 0, done.output
    shutil.copytree(tmp_path / "images", tmp_path / "out" / "images")
    dataset = read_annotated(to, tmp_path / "out" / "images", tmp_path / "out" / PLACES[to])
    assert names_and_boxes(dataset) == {"a.png": [("car", 8, 8, 40, 24)], "sub/b.png": of_b}


@pytest.mark.parametrize("by_way_of", ["voc", "yolo"])
def test_every_format_is_taken(convert, tmp_path, by_way_of):
    convert("--to", by_way_of, "--out", tmp_path / "first")
    shutil.copytree(tmp_path / "images", tmp_path / "first" / "images")

    done = convert(
        *("--format", by_way_of, "--to", "coco", "--out", tmp_path / "out"),
        images=tmp_path / "first" / "images",
        annotations=tmp_path / "first" / PLACES[by_way_of],
    )

    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert document["annotations"][0]["bbox"] == [8, 8, 32, 16]


def test_images_are_not_copied_and_annotations_not_changed(convert, tmp_path):
    before = (tmp_path / "coco.json").read_bytes()

    convert("--to", "yolo", "--out", tmp_path / "out")

    assert not list((tmp_path / "out").rglob("*.png"))
    assert (tmp_path / "coco.json").read_bytes() == before


def test_all_that_is_left_out_is_printed(convert, tmp_path):
    done = convert("--to", "yolo", "--out", tmp_path / "out")

    lines = done.stdout.splitlines()
    assert lines[:2] == [
        "2 boxes on 2 images",
        f"yolo: {tmp_path / 'out'} (lay the folder `labels` beside the folder `images`)",
    ]
    assert lines[2].startswith(f"Left out: {tmp_path / 'coco.json'}: annotation 2 ")
    assert lines[3:] == ["Left out: 1 crowd regions: YOLO has no regions to ignore"]


def test_json_is_no_data_yaml(convert, tmp_path):
    done = convert("--format", "yolo", "--to", "voc", "--out", tmp_path / "out")

    assert isinstance(done.exception, DataError)
    assert "coco.json: in the format yolo the annotations are a data.yaml" in str(done.exception)


def test_strict_refuses_a_box_that_would_be_left_out(convert, tmp_path):
    done = convert("--to", "yolo", "--out", tmp_path / "out", "--strict")

    assert isinstance(done.exception, DataError)
    assert "boxes must have an area inside their image" in str(done.exception)
    assert not (tmp_path / "out").exists()


def test_a_list_restricts_the_images(convert, tmp_path):
    (tmp_path / "list.txt").write_text("sub/b.png\n")

    convert("--to", "voc", "--out", tmp_path / "out", "--list", tmp_path / "list.txt")

    assert [path.name for path in (tmp_path / "out").rglob("*.xml")] == ["b.xml"]


def test_the_image_prefix_is_for_label_studio(convert, tmp_path):
    options = ("--to", "label-studio", "--image-prefix", "https://x/")

    done = convert(*options, "--out", tmp_path / "out")

    assert done.exit_code == 0, done.output
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    addresses = [task["data"]["image"] for task in tasks]
    assert addresses == ["https://x/a.png", "https://x/sub/b.png"]


def test_the_same_command_may_be_repeated(convert, tmp_path):
    convert("--to", "yolo", "--out", tmp_path / "out")

    assert convert("--to", "voc", "--out", tmp_path / "out").exit_code == 0
    assert not (tmp_path / "out" / "data.yaml").exists()


def test_a_folder_of_the_user_is_refused_before_anything_is_read(convert, tmp_path):
    done = convert("--to", "yolo", "--out", tmp_path / "images", annotations=tmp_path / "missing")

    assert isinstance(done.exception, ConfigError)
    assert "has 'a.png', which distildet did not write there" in str(done.exception)


@pytest.mark.parametrize("name", ExportFormat)
def test_every_format_that_is_offered_can_be_written(convert, tmp_path, name):
    assert convert("--to", name, "--out", tmp_path / "out").exit_code == 0


def test_the_prefix_shown_in_the_help_is_that_of_the_writer():
    assert LabelStudioOptions().image_prefix == IMAGE_PREFIX


@pytest.mark.shared
def test_photographs_keep_their_boxes(convert, tmp_path, shared_data):
    images = shared_data / "bccd" / "JPEGImages"
    listed = shared_data / "bccd" / "ImageSets" / "Main" / "test.txt"
    annotations = shared_data / "bccd" / "Annotations"
    options = ("--format", "voc", "--to", "yolo", "--out", tmp_path / "out", "--list", listed)

    done = convert(*options, images=images, annotations=annotations)

    assert done.exit_code == 0, done.output
    first = read_annotated("voc", images, annotations, listed=listed)
    (tmp_path / "out" / "images").symlink_to(images)
    again = read_annotated("yolo", tmp_path / "out" / "images", tmp_path / "out" / "data.yaml")
    boxes = {name: [pytest.approx(box) for box in drawn] for name, drawn in boxes_of(first)}
    assert dict(boxes_of(again)) == boxes


def boxes_of(dataset):
    return [(sample.id, sample.annotations.boxes.tolist()) for sample in dataset.samples]

"""`distildet label` and the formats that it exports."""

import json
import os
import shutil

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distildet.classes import ClassList
from distildet.cli.app import app
from distildet.data.annotated import read_annotated
from distildet.detectors.bundle import build_detector, save_detector
from distildet.errors import ClassMapError, ConfigError, DataError, GateError, StoreError


@pytest.fixture
def label(tmp_path):
    """Give a function that labels two images with an untrained teacher, every box exported."""
    for name in ("images/a.png", "images/sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (64, 32)).save(tmp_path / name)
    torch.manual_seed(0)
    detector = build_detector(
        "retinanet",
        classes=ClassList(("car",)),
        backbone="test_efficientnet",
        image_size=64,
        neck_channels=8,
        head_depth=1,
    )
    # An untrained head finds nothing; with this bias it takes every anchor for a car.
    torch.nn.init.zeros_(detector.head.classification_head.predictor.bias)
    save_detector(detector, tmp_path / "model")

    def run(*options):
        command = ["label", str(tmp_path / "model"), str(tmp_path / "images"), "--workers", "0"]
        out = ["--out", str(tmp_path / "out"), "--threshold", "0", "--device", "cpu"]
        return CliRunner().invoke(app, [*command, *out, *options])

    return run


def test_coco_is_written_where_nothing_is_asked(label, tmp_path):
    done = label()

    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "labels.json").read_text())
    count = len(document["annotations"])
    assert count > 0
    assert done.stdout.splitlines()[-2:] == [
        f"{count} boxes (score 0.0 and above) on 2 of 2 images",
        f"coco: {tmp_path / 'out' / 'labels.json'}",
    ]


def test_several_formats_hold_the_same_boxes(label, tmp_path):
    done = label(*("--export", "coco", "--export", "yolo", "--export", "voc"))

    assert done.exit_code == 0, done.output
    out = tmp_path / "out"
    (out / "yolo" / "images").symlink_to(tmp_path / "images")
    coco = read_annotated("coco", tmp_path / "images", out / "labels.json")
    voc = read_annotated("voc", tmp_path / "images", out / "voc" / "Annotations")
    yolo = read_annotated("yolo", out / "yolo" / "images", out / "yolo" / "data.yaml")
    expected = [pytest.approx(sample.annotations.boxes, abs=1e-4) for sample in coco.samples]
    assert [sample.annotations.boxes for sample in voc.samples] == expected
    assert [sample.annotations.boxes for sample in yolo.samples] == expected
    assert "Left out: the scores of" in done.stdout


def test_label_studio_names_the_teacher(label, tmp_path):
    done = label("--export", "label-studio", "--image-prefix", "https://x/")

    assert done.exit_code == 0, done.output
    tasks = json.loads((tmp_path / "out" / "label-studio" / "tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == ["https://x/a.png", "https://x/sub/b.png"]
    assert tasks[0]["predictions"][0]["model_version"].startswith("model-")
    assert not (tmp_path / "out" / "labels.json").exists()


def test_another_format_is_added_from_the_store(label, tmp_path):
    label()
    shard = tmp_path / "out" / "store" / "shards" / "shard-00000.parquet"
    before = shard.stat().st_ino

    done = label("--export", "voc")

    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "voc" / "Annotations" / "a.xml").is_file()
    assert shard.stat().st_ino == before


def test_labels_that_were_corrected_by_hand_are_not_lost(label, tmp_path):
    label("--export", "yolo")
    corrected = tmp_path / "out" / "yolo" / "labels" / "a.txt"
    corrected.write_text("0 0.5 0.5 1 1\n")

    done = label("--export", "yolo")

    assert isinstance(done.exception, ConfigError)
    assert "'labels/a.txt' was changed after distildet wrote it" in str(done.exception)
    assert corrected.read_text() == "0 0.5 0.5 1 1\n"


@pytest.mark.parametrize("stamped", [True, False])
def test_a_coco_file_that_was_corrected_by_hand_is_not_lost(label, tmp_path, stamped):
    label()
    corrected, stamp = (tmp_path / "out" / name for name in ("labels.json", ".labels.json.sha256"))
    corrected.write_text("{}")
    stamp.rename(stamp if stamped else tmp_path / "stamp")

    done = label()

    assert isinstance(done.exception, ConfigError)
    assert "labels.json: cannot be written again, since it is not as distildet" in str(
        done.exception
    )
    assert corrected.read_text() == "{}"


@pytest.mark.parametrize("stamped", [True, False])
def test_the_same_coco_file_may_be_written_again(label, tmp_path, stamped):
    label()
    stamp = tmp_path / "out" / ".labels.json.sha256"
    stamp.rename(stamp if stamped else tmp_path / "stamp")

    done = label()

    assert done.exit_code == 0, done.output
    assert stamp.is_file()


def test_an_untouched_coco_file_is_replaced_by_other_boxes(label, tmp_path):
    label()

    done = label("--threshold", "1")

    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out" / "labels.json").read_text())["annotations"] == []


def test_labels_of_another_precision_are_not_mixed_in(label):
    assert label("--precision", "bf16").exit_code == 0

    again = label("--precision", "fp32")

    assert isinstance(again.exception, StoreError)
    assert "settings.precision was 'bf16' and is 'fp32'" in str(again.exception)


def test_an_unknown_precision_is_refused(label):
    done = label("--precision", "fp8")

    assert done.exit_code == 2
    assert "'fp32', 'bf16', 'fp16'" in done.stderr


def test_an_unknown_format_is_refused(label):
    done = label("--export", "pascal")

    assert done.exit_code == 2
    assert "'pascal' is not one of 'coco', 'yolo', 'voc', 'label-studio'" in done.stderr


def test_pipes_in_the_folder_are_told(label, tmp_path):
    os.mkfifo(tmp_path / "images" / "c.png")

    done = label()

    assert done.exit_code == 0, done.output
    assert f"Left out: {tmp_path / 'images'}: 1 pipes, devices or broken" in done.stdout


def test_one_damaged_image_of_few_is_set_aside(label, tmp_path):
    (tmp_path / "images" / "c.png").write_bytes(b"damaged")

    done = label()

    assert done.exit_code == 0, done.output
    assert "Left out: 1 of 3 images, which cannot be labeled" in done.stdout


def test_several_damaged_images_need_a_larger_share(label, tmp_path):
    [(tmp_path / "images" / name).write_bytes(b"damaged") for name in ("c.png", "d.png")]

    refused, done = label(), label("--max-bad-fraction", "0.5")

    assert isinstance(refused.exception, GateError)
    assert "lists 2 of 4 images" in str(refused.exception)
    assert done.exit_code == 0, done.output
    assert "Left out: 2 of 4 images, which cannot be labeled" in done.stdout


def test_a_damaged_image_can_end_the_work(label, tmp_path):
    (tmp_path / "images" / "c.png").write_bytes(b"damaged")

    done = label("--on-bad-image", "error")

    assert isinstance(done.exception, DataError)
    assert "c.png: the file is not an image" in str(done.exception)


def test_of_two_processes_the_first_writes_and_tells_what_one_would(label, tmp_path, in_processes):
    expected = label("--export", "coco", "--export", "yolo")
    (tmp_path / "out").rename(tmp_path / "one")

    told = in_processes(lambda: label("--export", "coco", "--export", "yolo").stdout)

    assert told[1] == ""
    assert told[0].splitlines()[-5:] == expected.stdout.splitlines()[-5:]
    for name in ("labels.json", "yolo/labels/a.txt", "store/shards/shard-00000.parquet"):
        written, wanted = (tmp_path / folder / name for folder in ("out", "one"))
        assert written.read_bytes() == wanted.read_bytes()


def test_a_folder_that_others_hold_ends_both_processes(label, tmp_path, in_processes):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")

    results = in_processes(lambda: label().exception)

    assert [type(error) for error in results] == [ConfigError] * 2
    assert "since it is not empty (it has 'mine.txt')" in str(results[1])


@pytest.fixture
def other_teacher(tmp_path):
    """Save a teacher that takes every anchor for a bus or a car; it must stand after `label`."""
    torch.manual_seed(1)
    detector = build_detector(
        "retinanet",
        classes=ClassList(("bus", "Car")),
        backbone="test_efficientnet",
        image_size=64,
        neck_channels=8,
        head_depth=1,
    )
    torch.nn.init.zeros_(detector.head.classification_head.predictor.bias)
    save_detector(detector, tmp_path / "other")
    return str(tmp_path / "other")


def test_two_teachers_label_together_with_the_classes_of_both(label, other_teacher, tmp_path):
    assert label("--with", other_teacher).exit_code == 0

    document = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [category["name"] for category in document["categories"]] == ["car", "bus"]
    assert {box["category_id"] for box in document["annotations"]} == {
        category["id"] for category in document["categories"]
    }
    places = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("manifest.json")}
    assert places == {
        f"out/{place}/manifest.json" for place in ("store", "teachers/0/store", "teachers/1/store")
    }


def test_another_fusion_keeps_the_labels_of_the_teachers(label, other_teacher, tmp_path):
    label("--with", other_teacher)
    kept = (tmp_path / "out" / "teachers" / "0" / "store" / "manifest.json").stat().st_mtime_ns
    before = (tmp_path / "out" / "labels.json").read_bytes()

    done = label("--with", other_teacher, "--fusion", "nms", "--calibration", "none")

    assert done.exit_code == 0
    now = (tmp_path / "out" / "teachers" / "0" / "store" / "manifest.json").stat().st_mtime_ns
    assert now == kept
    assert (tmp_path / "out" / "labels.json").read_bytes() != before


def declared(path, entry):
    """Declare a file that finds nothing in both images, with some keys more."""
    document = {
        "images": [{"id": 1, "file_name": f"{name}.png", "height": 32, "width": 64}
                   for name in ("a", "b")],
        "annotations": [],
        "categories": [{"id": 1, "name": "bus"}, {"id": 2, "name": "van"}],
    }  # fmt: skip
    document["images"][1]["id"] = 2
    path.with_name("boxes.json").write_text(json.dumps(document))
    path.write_text(f"detector: results\nfile: boxes.json\n{entry}\n")
    return str(path)


def test_the_trust_of_a_declared_teacher_counts_and_paths_are_named(label, tmp_path):
    done = label("--with", declared(tmp_path / "boxes.yaml", "trust: 3"))

    assert done.exit_code == 0, done.output
    settings = json.loads((tmp_path / "out" / "store" / "manifest.json").read_text())["settings"]
    assert [one["trust"] for one in settings["teachers"]] == [1.0, 3.0]
    calibration = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert [one["name"] for one in calibration["teachers"]] == [
        str(tmp_path / "model"), str(tmp_path / "boxes.yaml")
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (
            "class_map: {buss: car}",
            [
                "boxes.yaml: class_map has 'buss', which is no class of the teacher.",
                "Here the student's classes are those of all teachers: car, bus, van.",
            ],
        ),
        ("unknown_classes: [bike]", ["boxes.yaml: unknown_classes has 'bike', which is no class"]),
        (
            "class_map: {bus: drop, van: drop}",
            ["boxes.yaml: class_map drops every class. Leave one, or this teacher out."],
        ),
    ],
)
def test_classes_of_a_later_teacher_are_refused_before_any_work(label, tmp_path, entry, says):
    refused = label("--with", declared(tmp_path / "boxes.yaml", entry))

    assert isinstance(refused.exception, ClassMapError)
    assert [text for text in says if text not in str(refused.exception)] == []
    assert not (tmp_path / "out").exists()


def test_labels_of_two_teachers_go_on_before_they_are_fused(label, other_teacher, tmp_path):
    label("--with", other_teacher)
    expected = (tmp_path / "out" / "labels.json").read_bytes()
    shutil.rmtree(tmp_path / "out" / "store")
    shutil.rmtree(tmp_path / "out" / "teachers" / "1")

    assert label("--with", other_teacher).exit_code == 0
    assert (tmp_path / "out" / "labels.json").read_bytes() == expected


def test_a_store_of_one_teacher_is_not_taken_for_that_of_two(label, other_teacher):
    label()

    refused = label("--with", other_teacher)

    assert isinstance(refused.exception, StoreError)
    assert "holds what one teacher has said alone, but now several" in str(refused.exception)


def test_a_store_of_two_teachers_is_not_taken_for_that_of_one(label, other_teacher):
    label("--with", other_teacher)

    refused = label()

    assert isinstance(refused.exception, StoreError)
    assert "holds what several teachers have said together" in str(refused.exception)
    assert "Name the others again (with --with, or in the recipe)" in str(refused.exception)


def test_a_folder_of_the_user_that_is_called_like_ours_is_refused(label, other_teacher, tmp_path):
    (tmp_path / "out" / "teachers" / "my notes").mkdir(parents=True)

    refused = label("--with", other_teacher)

    assert isinstance(refused.exception, ConfigError)
    assert "is not empty (it has 'teachers')" in str(refused.exception)

"""`distildet predict`: where it writes, names of the drawn images, and what it leaves out."""

import json
import os

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distildet.classes import ClassList
from distildet.cli.app import app
from distildet.detectors.bundle import build_detector, save_detector
from distildet.errors import ConfigError, DataError

LONGEST = 255  # bytes of a file name


@pytest.fixture
def predict(tmp_path):
    """Give a function that runs the command on a folder with images of these names."""
    torch.manual_seed(0)
    detector = build_detector(
        "retinanet",
        classes=ClassList(("car",)),
        backbone="test_efficientnet",
        image_size=64,
        neck_channels=8,
        head_depth=1,
    )
    save_detector(detector, tmp_path / "model")

    def run(*names):
        for name in names:
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 8)).save(path, "PNG")
        paths = [str(tmp_path / part) for part in ("model", "images", "out")]
        done = CliRunner().invoke(
            app, ["predict", *paths[:2], "--out", paths[2], "--device", "cpu"]
        )
        drawn = sorted((tmp_path / "out" / "drawn").rglob("*.png"))
        return done, [path.relative_to(tmp_path / "out" / "drawn") for path in drawn]

    return run


@pytest.mark.parametrize("letter", ["x", "\N{GRINNING FACE}"])
def test_drawings_of_images_with_the_longest_names_are_told_apart(predict, tmp_path, letter):
    stem = letter * (248 // len(letter.encode()))
    names = [f"sub/{stem}aaa.png", f"sub/{stem}bbb.png"]

    done, drawn = predict(*names)

    assert done.exit_code == 0, done.output
    assert sorted(json.loads((tmp_path / "out" / "detections.json").read_text())) == names
    assert len({path.name for path in drawn}) == 2
    assert {path.parent.name for path in drawn} == {"sub"}
    assert all(path.name.startswith(letter * 50) for path in drawn)
    assert max(len(path.name.encode()) for path in drawn) <= LONGEST


def test_the_longest_name_that_a_suffix_fits_to_is_kept(predict):
    name = "x" * (LONGEST - len(".png") - len(".png")) + ".png"

    _, drawn = predict(name)

    assert [path.name for path in drawn] == [f"{name}.png"]


def test_a_folder_with_anything_in_it_is_refused(predict, tmp_path):
    mine = tmp_path / "out" / "detections.json"
    (tmp_path / "out" / "drawn").mkdir(parents=True)
    mine.write_text("mine")

    done, drawn = predict("a.png")

    assert isinstance(done.exception, ConfigError)
    assert "it is not empty (it has 'detections.json'). Choose a new folder" in str(done.exception)
    assert mine.read_text() == "mine"
    assert drawn == []


def test_an_empty_folder_is_taken(predict, tmp_path):
    (tmp_path / "out").mkdir()

    done, drawn = predict("a.png")

    assert done.exit_code == 0, done.output
    assert [path.name for path in drawn] == ["a.png.png"]


def test_a_file_in_the_place_of_the_folder_is_refused(predict, tmp_path):
    (tmp_path / "out").write_text("mine")

    done, _ = predict("a.png")

    assert isinstance(done.exception, ConfigError)
    assert "a folder is to be written, but a file has this name" in str(done.exception)


def test_pipes_in_the_folder_are_told(predict, tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "b.png")

    done, _ = predict("a.png")

    assert done.exit_code == 0, done.output
    assert f"Left out: {tmp_path / 'images'}: 1 pipes, devices or broken" in done.stdout


def test_what_is_left_out_does_not_stand_in_the_json(predict, tmp_path):
    (tmp_path / "images").mkdir()
    os.mkfifo(tmp_path / "images" / "b.png")
    predict("a.png")

    done = CliRunner().invoke(
        app, ["predict", str(tmp_path / "model"), str(tmp_path / "images"), "--device", "cpu"]
    )

    assert list(json.loads(done.stdout)) == ["a.png"]
    assert "1 pipes, devices or broken links: 'b.png'" in done.stderr


def test_a_pipe_is_named_as_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "b.png")

    done = CliRunner().invoke(app, ["predict", "model", str(tmp_path / "b.png")])

    assert isinstance(done.exception, DataError)
    assert "b.png: found a pipe, which is never waited for." in str(done.exception)


def test_a_device_is_named_as_what_it_is():
    done = CliRunner().invoke(app, ["predict", "model", "/dev/null"])

    assert isinstance(done.exception, DataError)
    assert "/dev/null: found a device, which is never waited for." in str(done.exception)

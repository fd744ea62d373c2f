"""`distildet predict`: names of the drawn images."""

import json

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from distildet.classes import ClassList
from distildet.cli.app import app
from distildet.detectors.bundle import build_detector, save_detector

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

"""What the page about teachers of boxes shows is what there is."""

import json
import re
import shlex

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from distildet.cli.app import app
from distildet.detectors.onnx_declaration import (
    BoxesOutput,
    DetectionsOutput,
    GridOutput,
    OnnxInput,
)
from distildet.recipes.declared import read_entry
from distildet.recipes.load import load_recipe


@pytest.fixture
def page(project):
    return (project / "docs" / "black-box-teachers.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_every_declaration_of_the_page_is_valid(page, tmp_path):
    declared = [text for text in blocks(page, "yaml") if "\nname:" not in f"\n{text}"]

    for number, text in enumerate(declared):
        (tmp_path / f"{number}.yaml").write_text(text)
        assert read_entry(tmp_path / f"{number}.yaml").detector in {"onnx", "results"}

    assert len(declared) >= 9


def test_every_recipe_of_the_page_is_valid(page, tmp_path):
    recipes = [text for text in blocks(page, "yaml") if "\nname:" in f"\n{text}"]

    for text in recipes:
        (tmp_path / "recipe.yaml").write_text(text)
        assert load_recipe(tmp_path / "recipe.yaml", check_named=False).teachers

    assert recipes


@pytest.mark.parametrize("kind", [OnnxInput, GridOutput, BoxesOutput, DetectionsOutput])
def test_the_page_names_every_key_of_a_declaration(page, kind):
    named = set(re.findall(r"`([a-z_]+)`", page))

    assert set(kind.__dataclass_fields__) <= named


def test_the_python_of_the_page_labels_a_folder(page, tmp_path, capsys):
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8)).save(tmp_path / "photos" / "a.png")
    names = {}

    for snippet in blocks(page, "python"):
        exec(snippet, names)  # noqa: S102 - our own page

    assert "8.,  8., 24., 24." in capsys.readouterr().out
    (tmp_path / "boxes.yaml").write_text("{detector: results, file: boxes.json}")
    done = CliRunner().invoke(app, ["predict", "boxes.yaml", "photos", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert '"score": 0.9' in done.stdout


@pytest.fixture
def yolox(page, tmp_path, project, shared_data):
    """The files that the page names, beside the photographs and the model."""
    (tmp_path / "voc").symlink_to(shared_data / "voc")
    (tmp_path / "models").symlink_to(shared_data.parent / "models")
    (tmp_path / "yolox.yaml").write_text(blocks(page, "yaml")[0])
    (tmp_path / "recipe.yaml").write_text(blocks(page, "yaml")[1])
    names = (shared_data / "voc" / "unlabeled.txt").read_text().split()[:4]
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).symlink_to(shared_data / "voc" / "images" / name)
    (tmp_path / "few.txt").write_text("\n".join(names))
    records = json.loads((shared_data / "voc" / "val.json").read_text())["images"][:4]
    (tmp_path / "val.txt").write_text("\n".join(record["file_name"] for record in records))
    return tmp_path


@pytest.mark.shared
@pytest.mark.slow
def test_the_commands_of_the_page_work_with_yolox(page, yolox):
    commands = [line for line in blocks(page, "sh")[0].splitlines() if line]

    for command in commands:
        done = CliRunner().invoke(app, [*shlex.split(command)[1:], "--device", "cpu"])
        assert done.exit_code == 0, done.output

    # With red and blue exchanged it is .65; the page tells .713.
    ap50 = float(re.search(r"^AP50 +([\d.]+)", done.stdout, re.MULTILINE)[1])
    assert ap50 == pytest.approx(71.3, abs=1)


@pytest.mark.shared
@pytest.mark.slow
def test_the_recipe_of_the_page_runs_with_yolox(yolox):
    changes = {
        "data.workers": 0,
        "data.unlabeled[0].list": "few.txt",
        "data.validation.list": "val.txt",
        "student.pretrained": "false",
        "stages[1].epochs": "null",
        "stages[1].steps": 1,
        "stages[1].batch_size": 2,
    }
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]

    done = CliRunner().invoke(
        app, ["run", "recipe.yaml", "--out", "out", "--device", "cpu", *options]
    )

    assert done.exit_code == 0, done.output
    teacher = json.loads((yolox / "out" / "result.json").read_text())["models"]["teacher"]
    assert (teacher["parameters"], teacher["gflops"]) == (None, None)
    assert teacher["latency_ms"] > 0
    assert teacher["metrics"]["AP50"] > 0.3

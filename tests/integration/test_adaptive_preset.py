"""Runs of the preset `adaptive`: on both kinds of images, and without one of them."""

import json

import pytest

from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.runner import run_recipe

HEAD = """\
name: adaptive
seeds: [3]
data:
  image_size: 64
  workers: 0
  labeled:
    format: coco
    images: {folder}/train
    annotations: {folder}/train/annotations.json
    fraction: 0.5
  unlabeled: [labeled-rest]
student:
  detector: retinanet
  backbone: mobilenetv2_050
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 8
  head_depth: 1
  head_norm: group
  anchor_scale: 2
"""
PRESET = """\
preset: adaptive
teachers: [{{detector: {folder}/teacher/student}}]
"""
LABELS_ALONE = """\
stages:
  - {{stage: train, steps: 2, batch_size: 4, init: pretrained, optimizer: {{lr: 1.5e-3}}}}
"""
# The teacher of these tests is hardly trained.
LABELING = ("stages[0].threshold=0.06", "stages[0].ignore_floor=0.051")


@pytest.fixture
def run(tiny, tmp_path):
    """Run a recipe with two steps in its train stage, and return its folder."""

    def call(text, *overrides, stage=None):
        name = f"run-{len(list(tmp_path.iterdir()))}"
        path = tmp_path / f"{name}.yaml"
        path.write_text((HEAD + text).format(folder=tiny.folder))
        if stage is not None:
            here = f"stages[{stage}]"
            overrides += (f"{here}.epochs=null", f"{here}.steps=2", f"{here}.batch_size=4")
        recipe = load_recipe(path, overrides)
        run_recipe(recipe, out=tmp_path / name, device="cpu", progress=Silence())
        return tmp_path / name

    return call


def result_of(folder):
    return json.loads((folder / "result.json").read_text())


def metrics_of(stage):
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]


def weights_of(arm, stage):
    return (arm / stage / "student" / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_baseline_is_the_same_student_on_the_labels_alone(run):
    both = run(PRESET, *LABELING, stage=1)
    labels_alone = run(LABELS_ALONE)

    seed = both / "seed-3"
    assert metrics_of(seed / "02-train")[0]["adaptive.classification"] > 0
    assert result_of(both)["images_seen"] == {
        "student": [[{"labeled": 4, "unlabeled": 4}]],
        "baseline": [[{"labeled": 8}]],
    }
    assert weights_of(seed / "baseline", "01-train") == weights_of(
        labels_alone / "seed-3", "01-train"
    )


@pytest.mark.slow
def test_without_unlabeled_images_the_loss_is_on_the_labeled_ones_alone(run):
    folder = run(PRESET, "data.unlabeled=[]", stage=0)

    assert metrics_of(folder / "seed-3" / "01-train")[0]["adaptive.classification"] > 0
    assert result_of(folder)["images_seen"] == {
        "student": [[{"labeled": 8}]],
        "baseline": [[{"labeled": 8}]],
    }


@pytest.mark.slow
def test_without_labels_the_student_learns_from_the_teacher_alone(run, tiny):
    folder = run(
        PRESET,
        "data.labeled=null",
        f"data.unlabeled=[{{format: folder, images: {tiny.folder}/train}}]",
        *LABELING,
        stage=1,
    )

    assert metrics_of(folder / "seed-3" / "02-train")[0]["adaptive.classification"] > 0
    assert result_of(folder)["images_seen"] == {"student": [[{"unlabeled": 8}]]}

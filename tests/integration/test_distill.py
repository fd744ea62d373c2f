"""A run with a distillation loss: baseline beside it, killed and resumed."""

import json

import pytest
from safetensors.torch import load_file

RECIPE = """\
name: distilled
seeds: [3]
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: {folder}/train, annotations: {folder}/train/annotations.json}}
  validation:
    format: coco
    images: {folder}/validation
    annotations: {folder}/validation/annotations.json
teachers: [{{detector: {folder}/teacher/student}}]
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
stages:
  - stage: train
    steps: 20
    batch_size: 4
    optimizer: {{lr: 2e-3}}
    evaluations: 1
    checkpoint_every: 5
    distill: [{{loss: {loss}, weight: auto, schedule: {{decay: linear}}}}]
baseline: true
"""


@pytest.fixture
def recipe(tiny, tmp_path):
    def make(loss):
        path = tmp_path / "distilled.yaml"
        path.write_text(RECIPE.format(folder=tiny.folder, loss=loss))
        return path

    return make


def records(stage):
    """What was noted of steps; what losses have looked at stands beside that."""
    lines = (stage / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "prepared" not in record]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        ("feature-imitation", {"feature"}),
        # Seen at step 0 and, with twenty images, every five steps.
        ("global-knowledge", {"global", "feature", "response"}),
    ],
)
def test_a_killed_distillation_ends_in_the_same_files_with_its_baseline(
    recipe, kills, tmp_path, loss, parts
):
    recipe = recipe(loss)
    aim = kills.Aim(stage="01-train", step=8, is_inside_write=False, delay=0)
    kills.run(recipe, tmp_path / "whole")

    process = kills.start(recipe, tmp_path / "killed")
    was_killed = kills.kill_at(process, tmp_path / "killed" / "seed-3", aim)
    kills.run(recipe, tmp_path / "killed")

    folder = tmp_path / "whole" / "seed-3"
    student = records(folder / "01-train")[0]
    baseline = records(folder / "baseline" / "01-train")[0]
    checkpoint = folder / "01-train" / "checkpoints" / "step-000020" / "model.safetensors"
    bundle = load_file(folder / "01-train" / "student" / "model.safetensors")
    assert was_killed
    assert kills.differences(tmp_path / "whole", tmp_path / "killed") == []
    assert student.keys() - baseline.keys() == {f"{loss}.{part}" for part in {*parts, "factor"}}
    # Both arms begin with the same weights and the same images.
    assert student["classification"] == baseline["classification"]
    assert {name.split(".")[0] for name in load_file(checkpoint)} == {"student", "terms"}
    assert not any("projector" in name for name in bundle)

import json

import pytest

RECIPE = """
name: photographs
data:
  image_size: 96
  workers: 1
  labeled:
    format: coco
    images: {images}
    annotations: {folder}/bright_train.json
    fraction: 0.1
  validation: {{format: coco, images: {images}, annotations: {folder}/bright_val.json}}
student:
  detector: retinanet
  backbone: mobilenetv2_050
  pretrained: false
  backbone_levels: [C3, C4]
  neck_channels: 16
  head_depth: 1
  head_norm: group
stages:
  - {{stage: train, steps: 12, batch_size: 8, optimizer: {{lr: 2e-3}}, evaluations: 1}}
"""


@pytest.mark.slow
@pytest.mark.shared
def test_photographs_are_trained_on_and_measured(shared_data, distildet, tmp_path):
    folder = shared_data / "fod"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(folder=folder, images=folder / "images"))

    done = distildet("run", recipe, "--out", tmp_path / "run", timeout=300)

    assert done.returncode == 0, done.stderr
    log = (tmp_path / "run" / "seed-0" / "01-train" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in log[:12]]
    assert losses[-1] < losses[0]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert 0 <= result["models"]["student"]["metrics"]["AP"] <= 1

"""A run that keeps its images in memory: killed and resumed with other numbers of workers."""

import pytest

RECIPE = """\
name: kept
seeds: [3]
data:
  image_size: 64
  workers: 0
  cache: memory
  labeled: {{format: coco, images: {folder}/train, annotations: {folder}/train/annotations.json}}
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
    checkpoint_every: 5
    augmentation: {{zoom: [0.6, 0.9]}}
"""


@pytest.mark.slow
def test_images_in_memory_are_told_and_change_nothing_after_a_kill(tiny, kills, tmp_path):
    recipe = tmp_path / "kept.yaml"
    recipe.write_text(RECIPE.format(folder=tiny.folder))
    aim = kills.Aim(stage="01-train", step=8, is_inside_write=False, delay=0)
    kills.run(recipe, tmp_path / "whole")

    process = kills.start(recipe, tmp_path / "killed", workers=2)
    was_killed = kills.kill_at(process, tmp_path / "killed" / "seed-3", aim)
    kills.run(recipe, tmp_path / "killed", workers=1)

    told = "seed-3/01-train: 40 images will be kept in"
    assert was_killed
    assert kills.differences(tmp_path / "whole", tmp_path / "killed") == []
    assert told in (tmp_path / "whole.log").read_text()

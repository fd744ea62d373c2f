"""A run that reads the teacher from a cache: killed and resumed, and refused where it cannot."""

import pytest

RECIPE = """\
name: cached
seeds: [3]
data:
  image_size: 64
  workers: 1
  labeled: {{format: coco, images: {folder}/train, annotations: {folder}/train/annotations.json}}
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
    steps: 25
    batch_size: 4
    optimizer: {{lr: 2e-3}}
    checkpoint_every: 5
    distill: [{{loss: {loss}}}]
    teacher_cache: {{views: 2}}
baseline: false
"""


@pytest.fixture
def recipe(tiny, tmp_path):
    def write(loss):
        path = tmp_path / "cached.yaml"
        path.write_text(RECIPE.format(folder=tiny.folder, loss=loss))
        return path

    return write


@pytest.mark.slow
def test_a_killed_run_with_a_cache_ends_in_the_same_files(recipe, kills, tmp_path):
    aim = kills.Aim(stage="01-train", step=8, is_inside_write=False, delay=0)
    kills.run(recipe("adaptive"), tmp_path / "whole")

    process = kills.start(recipe("adaptive"), tmp_path / "killed")
    was_killed = kills.kill_at(process, tmp_path / "killed" / "seed-3", aim)
    cache = tmp_path / "killed" / "seed-3" / "01-train" / "teacher-cache"
    shards = {path.name: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()}
    (cache / "shards" / "shard-00001.safetensors").unlink()
    kills.run(recipe("adaptive"), tmp_path / "killed")

    # 40 images with two views each, 64 views a shard.
    assert was_killed
    assert len(shards) == 2 * 2
    assert kills.differences(tmp_path / "whole", tmp_path / "killed") == []
    assert not cache.exists()


def test_a_loss_that_needs_what_is_not_stored_is_refused_before_training(
    recipe, distildet, tmp_path
):
    done = distildet("run", recipe("feature-imitation"), "--out", tmp_path / "out")

    assert done.returncode == 2
    assert "stages[0].distill[0]: teacher_cache keeps nothing of the teacher" in done.stderr
    assert "'feature-imitation' needs its features.neck" in done.stderr
    assert not (tmp_path / "out" / "seed-3").exists()

"""A run that keeps its images in memory: resumed, with a teacher's cache, and in processes."""

import gc
import os
import subprocess
import sys

import pytest

from distildet.data.pixel_cache import PixelCache
from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.runner import run_recipe

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
TEACHER = """\
teachers: [{{detector: {folder}/teacher/student}}]
baseline: false
"""
CACHED = """\
  - stage: train
    steps: 30
    batch_size: 4
    optimizer: {{lr: 2e-3}}
    distill: [{{loss: adaptive}}]
    teacher_cache: {{views: 2}}
"""
TWICE = """\
  - {{stage: train, steps: 4, batch_size: 4, optimizer: {{lr: 2e-3}}, augmentation: none}}
"""


class Listener(Silence):
    """Keeps every message."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def write(tiny, tmp_path):
    """Write a recipe that goes on with more stages."""

    def to(name, more=""):
        path = tmp_path / f"{name}.yaml"
        path.write_text((RECIPE + more).format(folder=tiny.folder))
        return path

    return to


def run_all(recipe, override, out):
    """Run a recipe in this process and return what it told."""
    listener = Listener()
    run_recipe(load_recipe(recipe, (override,)), out=out, device="cpu", progress=listener)
    return listener.messages


@pytest.mark.slow
def test_images_in_memory_are_told_and_change_nothing_after_a_kill(write, kills, tmp_path):
    recipe = write("kept")
    aim = kills.Aim(stage="01-train", step=8, is_inside_write=False, delay=0)
    kills.run(recipe, tmp_path / "whole")

    process = kills.start(recipe, tmp_path / "killed", workers=2)
    was_killed = kills.kill_at(process, tmp_path / "killed" / "seed-3", aim)
    kills.run(recipe, tmp_path / "killed", workers=1)

    told = "seed-3/01-train: 40 images will be kept in"
    assert was_killed
    assert kills.differences(tmp_path / "whole", tmp_path / "killed") == []
    assert told in (tmp_path / "whole.log").read_text()


@pytest.mark.slow
def test_beside_a_cache_of_the_teacher_nothing_changes_where_images_are_kept_whole(
    write, kills, tmp_path
):
    recipe = write("cached", CACHED + TEACHER)

    run_all(recipe, "data.cache=memory", tmp_path / "kept")
    run_all(recipe, "data.cache=none", tmp_path / "plain")

    # No image has more pixels than the largest view.
    assert kills.differences(tmp_path / "plain", tmp_path / "kept") == [
        "recipe.yaml differs",
        "settings.json differs",
    ]


@pytest.mark.slow
def test_all_stages_and_seeds_share_one_memory_that_ends_with_the_run(write, tmp_path):
    messages = run_all(write("seeds", TWICE), "seeds=[3, 4]", tmp_path / "out")

    told = [line for line in messages if "data.cache" in line]
    # 40 images of 64 x 64, kept at 64 as the largest view of both stages.
    assert told == ["seed-3/01-train: 40 images will be kept in 0.5 MB of memory (data.cache)"]
    assert not any(type(one) is PixelCache for one in gc.get_objects())


@pytest.mark.slow
def test_each_of_several_processes_has_its_own_memory(write, tmp_path):
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = ["-m", "distildet", "run", write("kept"), "--out", tmp_path / "out"]

    done = subprocess.run(
        [sys.executable, *launch, *map(str, run)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    # 58 x 58 pixels, 0.9 * 64 rounded up.
    told = "40 images will be kept in 0.4 MB of memory by each of the 2 processes of this machine"
    assert done.stdout.count(told) == 1

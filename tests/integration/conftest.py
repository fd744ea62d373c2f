"""One finished run on tiny scenes, made once and shared by every test that only reads it."""

import fcntl
import importlib.util
import os
import resource
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.runner import run_recipe

IMAGES = 40
HALF_LABELED = """\
name: small
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


@dataclass(frozen=True, kw_only=True)
class TinyWork:
    """Scenes, a trained teacher, the recipe of a student, and the finished run of it."""

    folder: Path
    recipe: Path
    teacher: Path
    run: Path


@pytest.fixture(scope="session")
def kills(project):
    """The script that kills and compares runs."""
    spec = importlib.util.spec_from_file_location(
        "kill_and_resume", project / "benchmarks" / "kill_and_resume.py"
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny(kills, tmp_path_factory, request):
    """Whoever of the test processes comes first makes it; the others wait."""
    base = tmp_path_factory.getbasetemp()
    is_distributed = hasattr(request.config, "workerinput")
    folder = (base.parent if is_distributed else base) / "tiny-work"
    folder.mkdir(exist_ok=True)
    with (folder / "made").open("a+") as made:
        fcntl.flock(made, fcntl.LOCK_EX)
        # The size now, not the place where this process opened the file before it waited.
        if os.fstat(made.fileno()).st_size == 0:
            kills.run(kills.make_work(folder, images=IMAGES), folder / "reference")
            made.write("yes")
            made.flush()
    return TinyWork(
        folder=folder,
        recipe=folder / "student.yaml",
        teacher=folder / "teacher" / "student",
        run=folder / "reference",
    )


@pytest.fixture
def distildet():
    """Run the program and return its exit code and what it printed."""

    def call(*arguments, timeout=120):
        return subprocess.run(
            [sys.executable, "-m", "distildet", *map(str, arguments)],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            timeout=timeout,
            check=False,
        )

    return call


@pytest.fixture
def least_seconds():
    """Run a command several times and return its least seconds of processor time.

    A command that waits for nothing needs as much wall time on a machine that is not busy; wall
    time itself would measure the tests that run beside this one.
    """

    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    def measure(command, *, runs):
        def once():
            before = spent()
            subprocess.run(command, capture_output=True, check=True)
            return spent() - before

        return min(once() for _ in range(runs))

    return measure


@pytest.fixture
def run(tiny, tmp_path):
    """Run a recipe on images of which half have labels, and return its folder.

    The text gives the stages, or a preset; some of them have two steps in place of their length.
    """

    def call(text, *overrides, stages=()):
        name = f"run-{len(list(tmp_path.iterdir()))}"
        path = tmp_path / f"{name}.yaml"
        path.write_text((HALF_LABELED + text).format(folder=tiny.folder))
        for stage in stages:
            here = f"stages[{stage}]"
            overrides += (f"{here}.epochs=null", f"{here}.steps=2", f"{here}.batch_size=4")
        recipe = load_recipe(path, overrides)
        run_recipe(recipe, out=tmp_path / name, device="cpu", progress=Silence())
        return tmp_path / name

    return call

"""The program in two processes that torchrun starts, against one."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

RECIPE = """
name: several
data:
  image_size: 64
  workers: 1
  labeled: {{format: coco, images: {folder}/train, annotations: {folder}/train/annotations.json}}
  validation:
    {{format: coco, images: {folder}/validation, annotations: {folder}/validation/annotations.json}}
teachers: [{{detector: {folder}/teacher/student}}]
student:
  detector: fcos
  backbone: test_efficientnet
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 32
  head_depth: 1
stages:
  - {{stage: label, images: labeled, threshold: 0.1, ignore_floor: 0.05}}
  - stage: train
    targets: {{labeled: human}}
    distill: [{{loss: feature-imitation}}]
    steps: 20
    batch_size: 4
    batch_norm: frozen
    optimizer: {{name: sgd, lr: 0.01}}
    evaluations: 2
    checkpoint_every: 2
"""
STAGE = "seed-0/02-train"
PROCESSES = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recipe(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("several") / "recipe.yaml"
    path.write_text(RECIPE.format(folder=tiny.folder))
    return path


@pytest.fixture(scope="module")
def start():
    """Start the program in two processes."""
    started = []

    def begin(*arguments):
        process = subprocess.Popen(
            [sys.executable, *PROCESSES, "-m", "distildet", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()


@pytest.fixture(scope="module")
def one(recipe):
    """The run of one process."""
    out = recipe.parent / "one"
    subprocess.run(
        [sys.executable, "-m", "distildet", "run", str(recipe), "--out", str(out)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    return out


@pytest.fixture(scope="module")
def two(recipe, start):
    """The run of two processes, and what they printed."""
    out = recipe.parent / "two"
    process = start("run", recipe, "--out", out)
    printed, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return out, printed


def assert_same_student(run, other):
    first = load_file(run / "student" / "model.safetensors")
    torch.testing.assert_close(
        load_file(other / "student" / "model.safetensors"), first, rtol=1e-5, atol=5e-6
    )


def losses(run):
    lines = (run / STAGE / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


def wait_for_steps(run: Path, steps: int, process):
    log = run / STAGE / "metrics.jsonl"
    while not log.exists() or len(log.read_text().splitlines()) < steps:
        assert process.poll() is None
        time.sleep(0.01)


def workers(process):
    """The processes that torchrun started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(map(int, children))


def test_two_processes_give_the_student_of_one(one, two):
    assert_same_student(one, two[0])
    torch.testing.assert_close(losses(two[0]), losses(one), rtol=1e-5, atol=0)


def test_two_processes_label_as_one(one, two):
    def files(run):
        folder = run / "seed-0" / "01-label"
        return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.parquet")}

    assert files(one)
    assert files(two[0]) == files(one)


def test_the_result_and_each_line_come_once(one, two):
    out, printed = two
    result, alone = (json.loads((run / "result.json").read_text()) for run in (out, one))

    assert printed.count("verdict:") == 1
    assert printed.count(f"{STAGE}: 20/20") == 1
    assert result["images_seen"] == alone["images_seen"]
    assert result["models"]["student"]["metrics"] == pytest.approx(
        alone["models"]["student"]["metrics"], abs=1e-3
    )


def test_a_finished_run_says_so_once(recipe, start, two):
    printed, _ = start("run", recipe, "--out", two[0]).communicate(timeout=120)

    assert printed.count("already finished") == 1


def test_a_process_that_is_killed_ends_the_other_and_one_goes_on(
    recipe, one, start, distildet, tmp_path
):
    out = tmp_path / "run"
    process = start("run", recipe, "--out", out)
    wait_for_steps(out, 5, process)

    os.kill(workers(process)[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    continued = distildet("run", recipe, "--out", out)

    assert process.returncode == 1
    assert errors.count("distildet: Another process of this run ended without a word") == 1
    assert continued.returncode == 0
    assert_same_student(one, out)


def test_a_signal_to_torchrun_stops_all_after_a_checkpoint(recipe, one, start, distildet, tmp_path):
    out = tmp_path / "run"
    process = start("run", recipe, "--out", out)
    wait_for_steps(out, 5, process)

    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    steps = len(losses(out))
    newest = max(path.name for path in (out / STAGE / "checkpoints").glob("step-*"))
    continued = distildet("run", recipe, "--out", out)

    assert errors.count("distildet: Stopped by SIGTERM") == 1
    assert newest == f"step-{steps:06d}"
    assert continued.returncode == 0
    assert_same_student(one, out)


def test_a_fault_of_usage_is_said_once(start):
    _, errors = start("run", "--nonsense").communicate(timeout=120)

    assert errors.count("No such option") == 1


def test_help_is_printed_once(start):
    process = start("run", "--help")
    printed, _ = process.communicate(timeout=120)

    assert process.returncode == 0
    assert printed.count("Continues by itself") == 1


def test_what_is_wrong_in_a_recipe_is_said_once(recipe, start, tmp_path):
    process = start("run", recipe, "--out", tmp_path / "run", "--set", "stages[1].batch_size=3")
    _, errors = process.communicate(timeout=120)

    assert errors.count("stages[1].batch_size: found 3, which 2 processes do not divide") == 1
    assert "exitcode  : 2" in errors

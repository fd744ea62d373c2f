import subprocess
import sys

import pytest


def test_a_run_killed_twice_ends_in_the_same_files(tiny, kills, tmp_path):
    aims = [
        kills.Aim(stage="02-train", step=12, is_inside_write=True, delay=0),
        kills.Aim(stage="03-train", step=5, is_inside_write=False, delay=0.01),
    ]

    moments = kills.run_with_kills(tiny.recipe, tmp_path / "run", aims)

    assert [(one.stage, one.is_inside_write) for one in moments] == [
        ("02-train", True),
        ("03-train", False),
    ]
    assert kills.differences(tiny.run, tmp_path / "run") == []


def test_the_comparison_sees_one_changed_bit(tiny, kills, tmp_path):
    copy = tmp_path / "run"
    kills.shutil.copytree(tiny.run, copy)
    weights = copy / "student" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(bytes(content))

    assert kills.differences(tiny.run, copy) == ["student/model.safetensors differs"]


@pytest.mark.slow
def test_kills_in_every_stage_change_nothing_for_any_number_of_workers(project):
    script = project / "benchmarks" / "kill_and_resume.py"

    finished = subprocess.run(
        [sys.executable, str(script), "--kills", "6", "--workers", "0", "1", "2", "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stdout + finished.stderr

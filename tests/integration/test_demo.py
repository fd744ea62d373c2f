"""The whole job with three seeds, as `make demo` runs it with one."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_teacher_beats_student_beats_baseline_with_three_seeds(tmp_path):
    command = [sys.executable, "-m", "distildet", "demo", "--out", "demo", "--seeds", "3"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "demo/student/result.json").read_text())
    ap50 = {name: model["metrics"]["AP50"] for name, model in result["models"].items()}
    assert ap50["teacher"] > ap50["student"] > ap50["baseline"]
    assert result["verdict"] == "gain"
    assert result["steps"]["student"] == result["steps"]["baseline"]

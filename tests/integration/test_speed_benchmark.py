import importlib
import json
import subprocess
import sys

import numpy as np
import pytest

NAMES = ["supervised-step", "distill-step", "labeling", "cached-teacher", "evaluation", "adaptive"]
NAMES += ["prototypes"]


@pytest.fixture
def timing(project, monkeypatch):
    monkeypatch.syspath_prepend(project / "benchmarks")
    return importlib.import_module("speed_rows.timing")


def test_the_interval_of_a_median_covers_it_and_not_the_outlier(timing):
    values = np.array([0.9, 1.0, 1.0, 1.0, 1.1, 1.0, 1.0, 9.0])

    low, high = timing.bootstrap_interval(values)

    assert 0.9 <= low <= 1.0 <= high < 9.0


@pytest.mark.parametrize(
    ("sign", "ratio", "is_met"),
    [("<=", 1.05, True), ("<=", 1.06, False), (">=", 0.97, True), (">=", 0.96, False)],
)
def test_a_goal_is_met_up_to_its_bound(timing, sign, ratio, is_met):
    goal = timing.Goal(sign=sign, value=1.05 if sign == "<=" else 0.97)

    assert goal.is_met_by(ratio) is is_met


def test_a_row_is_the_median_of_the_ratios_within_a_round(timing):
    clock = timing.Clock(timing.torch.device("cpu"), {})
    clock.wall = clock.cpu = {"a": [1.0, 4.0, 3.0], "b": [1.0, 2.0, 9.0], "c": [2.0, 2.0, 2.0]}

    row = clock.row("name", "case", ["a", "b"], ["c"], goal=None)

    # (1 + 1) / 2 = 1, (4 + 2) / 2 = 3, (3 + 9) / 2 = 6.
    assert (row.ratio, row.cpu_ratio, row.rounds) == (3.0, 3.0, 3)
    assert (row.above_ms, row.below_ms) == (6000.0, 2000.0)


def test_works_take_turns_and_change_places(timing):
    calls = []
    works = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}

    timing.Clock(timing.torch.device("cpu"), works).run(2, warm_ups=0)

    assert calls == ["a", "b", "b", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--repeats", "0"], "--repeats is 0"), (["--images", "nowhere"], "--images is nowhere")],
)
def test_arguments_without_meaning_are_refused(project, monkeypatch, capsys, arguments, message):
    monkeypatch.syspath_prepend(project / "benchmarks")
    monkeypatch.setattr(sys, "argv", ["speed.py", *arguments])

    with pytest.raises(SystemExit, match="2"):
        importlib.import_module("speed").main()

    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_quick_benchmark_keeps_every_row_and_writes_the_page(project, tmp_path):
    result, page = tmp_path / "cpu.json", tmp_path / "speed.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    command = [sys.executable, str(project / "benchmarks" / "speed.py"), "--quick"]
    command += ["--threads", "1", "--result", str(result), "--page", str(page)]

    finished = subprocess.run(command, capture_output=True, text=True, check=False)

    assert finished.returncode == 0, finished.stdout + finished.stderr
    measurements = json.loads(result.read_text())["measurements"]
    assert [one["name"] for one in measurements] == NAMES
    rows = [row for one in measurements for row in one["rows"]]
    assert all(row["low"] <= row["ratio"] <= row["high"] for row in rows)
    with_goal = [row["name"] for row in rows if row["goal"]]
    assert with_goal == [NAMES[0]] * 3 + [NAMES[1]] * 8 + NAMES[2:] + NAMES[-1:]
    text = page.read_text()
    assert text.startswith("before\n<!-- table -->\n\n")
    assert text.endswith("\n\n<!-- end of table -->\nafter\n")
    assert text.count("\n| `") == len(rows)
    assert "old" not in text

from pathlib import Path

from distildet.cli.run import result_lines

MODEL = {
    "metrics": {"AP": 0.5, "AP50": 0.75, "AP75": None},
    "parameters": 1234567,
    "gflops": 0.5,
    "latency_ms": 12.34,
}


def test_a_result_is_shown_as_a_row_a_model_the_gain_and_the_verdict():
    result = {
        "models": {"teacher": MODEL},
        "gain": {"AP": {"value": 0.031, "ci95": [-0.002, 0.064]}},
        "verdict": "tie",
        "seeds": [0, 1],
        "not_measured": [],
    }

    lines = result_lines(result, Path("runs/a"))

    assert lines[1:4] == [
        "teacher      50.0   75.0      -   1,234,567    0.50    12.3",
        "student - baseline, AP: +3.1 (95 % interval -0.2 to +6.4)",
        "verdict: tie, 2 seed(s)",
    ]


def test_of_several_teachers_each_has_a_row():
    result = {
        "models": {"teacher": MODEL},
        "teachers": [{**MODEL, "metrics": None}, MODEL],
        "gain": {},
        "verdict": "tie",
        "seeds": [0],
        "not_measured": [],
    }

    lines = result_lines(result, Path("runs/a"))

    assert [line[:24].split() for line in lines[1:4]] == [
        ["teacher", "0", "-", "-"],
        ["teacher", "1", "50.0", "75.0"],
        ["teacher", "50.0", "75.0"],
    ]


def test_what_was_not_measured_is_said():
    result = {
        "models": {"student": {**MODEL, "metrics": None}},
        "gain": {},
        "verdict": "not measured",
        "seeds": [0],
        "not_measured": ["metrics: the recipe has no data.validation"],
    }

    lines = result_lines(result, Path("runs/a"))

    assert "not measured: metrics: the recipe has no data.validation" in lines


def test_the_cost_of_a_teacher_that_is_not_ours_is_left_open():
    unknown = dict.fromkeys(("parameters", "gflops", "latency_ms"))
    result = {
        "models": {"teacher": {**MODEL, **unknown}},
        "gain": {},
        "verdict": "tie",
        "seeds": [0],
        "not_measured": [],
    }

    lines = result_lines(result, Path("runs/a"))

    assert lines[1] == "teacher      50.0   75.0      -           -       -       -"


def test_warnings_are_shown():
    result = {
        "models": {"student": MODEL},
        "gain": {},
        "verdict": "tie",
        "seeds": [0],
        "not_measured": [],
        "warnings": ["seed 0: of 20 steps the student learned in 7"],
    }

    lines = result_lines(result, Path("runs/a"))

    assert "warning: seed 0: of 20 steps the student learned in 7" in lines

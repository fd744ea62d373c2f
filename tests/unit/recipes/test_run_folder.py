import json
import os
import subprocess
import sys

import pytest

from distildet.errors import ConfigError, DataError, GateError, StageError
from distildet.recipes.run_folder import (
    arm_folder,
    changed_settings,
    check_same,
    is_done,
    keeping_to_its_images,
    locked,
    read_done,
    refuse_foreign,
    remove_leftovers,
    settings_of,
    stage_folder,
    write_done,
)
from distildet.recipes.schema import LabelStage, Recipe

HOLD = """
import sys
from pathlib import Path
from distildet.recipes.run_folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_a_folder_is_held_by_one_process_and_the_message_names_it(holder, tmp_path):
    with (
        pytest.raises(StageError, match=f"in use by process {holder.pid} on "),
        locked(tmp_path / "run"),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(holder, tmp_path):
    holder.kill()
    holder.wait()

    with locked(tmp_path / "run"):
        assert f"process {os.getpid()}" in (tmp_path / "run" / ".lock").read_text()


@pytest.mark.parametrize("place", ["run", "runs/a"])
def test_a_folder_that_was_made_for_nothing_is_removed_again(tmp_path, place):
    with locked(tmp_path / place):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_there_or_is_used_is_kept(tmp_path):
    (tmp_path / "mine").mkdir()
    with locked(tmp_path / "mine"), locked(tmp_path / "run"):
        (tmp_path / "run" / "result.json").write_text("{}")

    assert (tmp_path / "mine").is_dir()
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("error", [DataError, GateError])
def test_a_fault_of_an_image_says_that_a_run_keeps_to_its_images(tmp_path, error):
    with (
        pytest.raises(
            error,
            match=rf"^x.jpg: damaged. A run keeps to .* delete {tmp_path} or choose another --out",
        ),
        keeping_to_its_images(tmp_path),
    ):
        raise error("x.jpg: damaged.")


def test_a_file_cannot_be_a_run_folder(tmp_path):
    (tmp_path / "run").write_text("mine")

    with (
        pytest.raises(ConfigError, match=r"cannot be used as a run folder \(File exists\)"),
        locked(tmp_path / "run"),
    ):
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_a_folder_with_files_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("mine")

    with pytest.raises(ConfigError, match=r"not empty \(it has 'recipe.yaml'\)"):
        refuse_foreign(tmp_path)


@pytest.mark.parametrize("name", ["settings.json", ".lock", ".partial-x"])
def test_a_folder_in_which_a_run_was_begun_is_accepted(tmp_path, name):
    (tmp_path / name).write_text("{}")

    refuse_foreign(tmp_path)


def test_a_folder_that_is_not_there_is_accepted(tmp_path):
    refuse_foreign(tmp_path / "run")

    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("now", "line"),
    [
        ({"a": 2, "b": {"c": [1, 2]}}, "a was 1 and is 2"),
        ({"a": 1, "b": {"c": [1, 3]}}, r"b\.c\[1\] was 2 and is 3"),
        ({"a": 1, "b": {"c": [1]}}, r"b\.c was \[1, 2\] and is \[1\]"),
        ({"a": 1}, r"b was .* and is None"),
    ],
)
def test_each_difference_is_named_by_its_path(tmp_path, now, line):
    (tmp_path / "settings.json").write_text('{"a": 1, "b": {"c": [1, 2]}}')

    with pytest.raises(StageError, match=line):
        check_same(tmp_path / "settings.json", now, "settings")


@pytest.mark.parametrize(
    "now",
    [
        {"seeds": [0, 1], "data": {"workers": 1}},
        {"seeds": [0], "data": {"workers": 2}},
        {"seeds": (0,), "data": {"workers": 1}},
    ],
)
def test_what_may_change_between_two_calls_is_no_difference(tmp_path, now):
    (tmp_path / "settings.json").write_text('{"seeds": [0], "data": {"workers": 1}}')

    check_same(tmp_path / "settings.json", now, "settings")


STAGES = """
{"stages": [{"stage": "label", "threshold": 0.5, "on_bad_image": "error", "max_bad_fraction": 0.1},
            {"stage": "train", "steps": 3}]}
"""


@pytest.mark.parametrize("changed", [{"on_bad_image": "quarantine"}, {"max_bad_fraction": 1.0}])
def test_what_is_done_with_bad_images_may_change_between_two_calls(tmp_path, changed):
    (tmp_path / "settings.json").write_text(STAGES)
    now = json.loads(STAGES)
    now["stages"][0] |= changed

    check_same(tmp_path / "settings.json", now, "settings")


def test_other_settings_of_a_label_stage_may_not_change(tmp_path):
    (tmp_path / "settings.json").write_text(STAGES)
    now = json.loads(STAGES)
    now["stages"][0]["threshold"] = 0.6

    with pytest.raises(StageError, match=r"stages\[0\]\.threshold was 0\.5 and is 0\.6"):
        check_same(tmp_path / "settings.json", now, "settings")


def test_of_many_differences_the_first_five_are_shown(tmp_path):
    (tmp_path / "files.json").write_text("{}")

    with pytest.raises(StageError, match=r": x0; x1; x2; x3; x4; and 2 more\. Put it back"):
        check_same(
            tmp_path / "files.json", {}, "data", lambda _old, _new: [f"x{i}" for i in range(7)]
        )


def test_a_damaged_file_of_a_run_is_named(tmp_path):
    (tmp_path / "settings.json").write_text('{"a": ')

    with pytest.raises(StageError, match=r"settings\.json: damaged"):
        check_same(tmp_path / "settings.json", {}, "settings")


def test_what_killed_writers_left_is_deleted_and_nothing_else(tmp_path):
    kept = tmp_path / "seed-0" / "02-train" / "metrics.jsonl"
    foreign = tmp_path / "other-run" / ".partial-y"
    leftovers = [
        tmp_path / ".partial-a",
        tmp_path / "teacher" / ".partial-b",
        tmp_path / "seed-0" / ".partial-c",
        tmp_path / "seed-0" / "02-train" / ".partial-d" / "student",
        tmp_path / "seed-0" / "baseline" / "01-train" / "checkpoints" / ".partial-e",
    ]
    for path in [kept, foreign, *leftovers]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")

    remove_leftovers(tmp_path)

    assert kept.exists()
    assert foreign.exists()
    assert not any(path.exists() for path in leftovers)
    assert not (tmp_path / "seed-0" / "02-train" / ".partial-d").exists()


def test_a_stage_is_done_when_it_has_noted_so(tmp_path):
    assert not is_done(tmp_path)

    write_done(tmp_path, {"steps": 3})

    assert is_done(tmp_path)
    assert read_done(tmp_path) == {"steps": 3}


def test_stages_are_folders_of_their_arm_counted_from_1(tmp_path):
    arm = arm_folder(tmp_path, 7, "baseline")

    assert arm == tmp_path / "seed-7" / "baseline"
    assert stage_folder(arm, 0, LabelStage(stage="label")).name == "01-label"


def test_a_run_keeps_to_its_precision():
    before, now = {"name": "a", "precision": "fp16"}, {"name": "a", "precision": "bf16"}

    assert changed_settings(before, now) == ["precision was 'fp16' and is 'bf16'"]


@pytest.mark.parametrize(
    ("precision", "differences"),
    [("fp32", []), ("bf16", ["precision was 'fp32' and is 'bf16'"])],
)
def test_a_run_from_before_there_was_a_precision_had_fp32(precision, differences):
    assert changed_settings({"name": "a"}, {"name": "a", "precision": precision}) == differences


LABELED = {"format": "coco", "images": "i", "annotations": "a.json"}


def settings_before_the_choice(stage):
    """Settings noted before there were `data.cache`, `teacher_cache` and a precision."""
    recipe = Recipe.model_validate(
        {
            "name": "a",
            "data": {"image_size": 64, "labeled": LABELED},
            "student": {"detector": "fcos"},
            "stages": [{"stage": "train", "steps": 1, "optimizer": {"lr": 1.0}}],
        }
    )
    now = settings_of(recipe, "fp32")
    before = json.loads(json.dumps(now))
    del before["data"]["cache"]
    del before["stages"][0]["teacher_cache"]
    del before["precision"]
    now["stages"][0] |= stage
    return before, now


def test_a_run_begun_before_there_was_a_choice_had_the_default():
    before, now = settings_before_the_choice({})

    assert changed_settings(before, now) == []


def test_a_choice_that_an_old_run_did_not_have_is_told_with_its_default():
    before, now = settings_before_the_choice({"ema": 0.5})
    now["data"]["cache"] = "memory"

    assert changed_settings(before, now) == [
        "data.cache was 'none' and is 'memory'",
        "stages[0].ema was 0.998 and is 0.5",
    ]

import json
import shutil

import pytest
import torch

from distildet.errors import ConfigError, DataError, StageError
from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.result import arm_evaluations
from distildet.recipes.runner import run_recipe

# A single step after the recipe's data and teacher: what is tested happens around the training.
SHORT = "stages=[{stage: train, steps: 1, batch_size: 2, optimizer: {lr: 1e-4}, evaluations: 1}]"


class Messages(Silence):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


@pytest.fixture
def run():
    def run_here(recipe, out, *overrides, progress=None, **options):
        loaded = load_recipe(recipe, overrides)
        told = progress or Silence()
        return run_recipe(loaded, out=out, device="cpu", progress=told, **options)

    yield run_here
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def copied(tiny, tmp_path):
    """Work of one's own to change: scenes, teacher and recipe, and a run folder not yet there."""
    for name in ("train", "validation", "teacher"):
        shutil.copytree(tiny.folder / name, tmp_path / "work" / name)
    shutil.copy(tiny.recipe, tmp_path / "work")
    return tmp_path / "work"


def test_a_recipe_can_be_mended_after_a_fault_in_its_data(tiny, copied, run):
    annotations = copied / "train" / "annotations.json"
    sound = annotations.read_text()
    annotations.write_text(sound.replace('"category_id": 1', '"category_id": 77'))
    with pytest.raises(DataError, match="77"):
        run(copied / "student.yaml", copied / "run", SHORT, "baseline=false")
    annotations.write_text(sound)

    result = run(copied / "student.yaml", copied / "run", SHORT, "baseline=false", "seeds=[9]")

    assert result["seeds"] == [9]


def test_a_teacher_whose_classes_stand_in_another_order_is_measured_by_name(tiny, copied, run):
    for folder in ("train", "validation"):
        path = copied / folder / "annotations.json"
        document = json.loads(path.read_text())
        for category in document["categories"]:
            category["id"] = 6 - category["id"]
        for annotation in document["annotations"]:
            annotation["category_id"] = 6 - annotation["category_id"]
        path.write_text(json.dumps(document))

    result = run(copied / "student.yaml", copied / "run", SHORT, "baseline=false")

    expected = json.loads((tiny.run / "result.json").read_text())["models"]["teacher"]["per_class"]
    assert result["models"]["teacher"]["per_class"] == expected
    assert list(result["models"]["teacher"]["per_class"]) == list(expected)[::-1]


def test_other_teacher_weights_are_refused(tiny, copied, run):
    run(copied / "student.yaml", copied / "run", SHORT, "baseline=false")
    (copied / "run" / "result.json").unlink()
    shutil.rmtree(copied / "teacher" / "student")
    shutil.copytree(tiny.run / "student", copied / "teacher" / "student")

    with pytest.raises(StageError, match=r"begun with other weights: teachers\[0\] was"):
        run(copied / "student.yaml", copied / "run", SHORT, "baseline=false")


def test_a_changed_image_is_named(copied, run):
    run(copied / "student.yaml", copied / "run", SHORT, "baseline=false")
    (copied / "run" / "result.json").unlink()
    (copied / "validation" / "000003.jpg").write_bytes(
        (copied / "validation" / "000004.jpg").read_bytes() + b" "
    )

    with pytest.raises(StageError, match=r"other data: validation: /.*/validation/000003\.jpg has"):
        run(copied / "student.yaml", copied / "run", SHORT, "baseline=false")


def test_boxes_that_are_left_out_are_told_in_short_and_all_kept_in_a_file(copied, run):
    path = copied / "train" / "annotations.json"
    document = json.loads(path.read_text())
    box = {**document["annotations"][0], "bbox": [-9, -9, 1, 1]}
    document["annotations"] += [{**box, "id": 10_000 + index} for index in range(25)]
    path.write_text(json.dumps(document))
    messages = Messages()

    run(copied / "student.yaml", copied / "run", SHORT, "baseline=false", progress=messages)

    told = [line for line in messages.lines if "has no area" in line]
    kept = (copied / "run" / "remarks.txt").read_text().splitlines()
    assert [f"  {line}" for line in kept[:20]] == told
    assert len(kept) == 25
    assert "  ... and 5 more like these, in remarks.txt" in messages.lines


def test_a_folder_of_the_user_is_left_as_it_is(copied, run):
    before = sorted(copied.iterdir())

    with pytest.raises(ConfigError, match="not empty"):
        run(copied / "student.yaml", copied, SHORT)

    assert sorted(copied.iterdir()) == before


def test_a_damaged_checkpoint_is_skipped_by_name_and_the_result_is_the_same(
    tiny, kills, run, tmp_path
):
    out, messages = tmp_path / "run", Messages()
    shutil.copytree(tiny.run, out)
    stage = out / f"seed-{kills.SEED}" / "03-train"
    newest = stage / "checkpoints" / f"step-{kills.STEPS['03-train']:06d}"
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-1] ^= 1
    (newest / "optimizer.safetensors").write_bytes(bytes(content))
    for unfinished in (stage / "DONE", stage.parent / "detections.json", out / "result.json"):
        unfinished.unlink()

    run(tiny.recipe, out, progress=messages)

    assert any(f"{newest}: skipped, optimizer.safetensors" in line for line in messages.lines)
    assert kills.differences(tiny.run, out) == []


def test_further_seeds_are_added_to_a_finished_run(tiny, kills, run, tmp_path):
    out = tmp_path / "run"
    run(tiny.recipe, out, SHORT, "baseline=false")
    weights = out / f"seed-{kills.SEED}" / "01-train" / "student" / "model.safetensors"
    before = weights.stat()

    result = run(tiny.recipe, out, SHORT, "baseline=false", f"seeds=[{kills.SEED}, 4]")

    assert result["seeds"] == [kills.SEED, 4]
    assert len(result["models"]["student"]["per_seed"]) == 2
    assert (weights.stat().st_ino, weights.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


@pytest.mark.parametrize("arm", ["student", "baseline"])
def test_kept_detections_evaluate_to_the_metrics_of_the_result(tiny, arm):
    evaluations = arm_evaluations(load_recipe(tiny.recipe), tiny.run, arm)

    expected = json.loads((tiny.run / "result.json").read_text())["models"][arm]["per_seed"]
    assert [evaluation.metrics for evaluation in evaluations] == expected


def test_a_run_keeps_to_the_precision_that_it_was_begun_with(copied, run):
    arguments = (copied / "student.yaml", copied / "run", SHORT, "baseline=false")
    run(*arguments, precision="bf16")
    (copied / "run" / "result.json").unlink()

    with pytest.raises(StageError, match="other settings: precision was 'bf16' and is 'fp32'"):
        run(*arguments)

    (state,) = (copied / "run").glob("seed-*/01-train/checkpoints/step-*/state.json")
    assert json.loads(state.read_text())["settings"]["precision"] == "bf16"
    assert run(*arguments, precision="bf16")["models"]["student"]["metrics"] is not None

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from pycocotools.coco import COCO

from distildet.recipes.run_folder import locked

COMMANDS = ("demo", "run", "label", "convert", "predict", "evaluate", "list")


def test_a_finished_run_says_so_and_exits_with_0(tiny, distildet):
    done = distildet("run", tiny.recipe, "--out", tiny.run)

    assert done.returncode == 0, done.stderr
    assert "already finished" in done.stdout
    assert "verdict: " in done.stdout


def test_a_changed_recipe_is_refused_naming_the_key_and_both_values(tiny, distildet):
    refused = distildet("run", tiny.recipe, "--out", tiny.run, "--set", "stages[1].optimizer.lr=1")

    assert refused.returncode == 2
    assert "stages[1].optimizer.lr was 0.002 and is 1.0" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_second_process_in_the_same_folder_is_refused(tiny, distildet, tmp_path):
    with locked(tmp_path / "run"):
        refused = distildet("run", tiny.recipe, "--out", tmp_path / "run")

    assert refused.returncode == 2
    assert re.search(r"run: in use by process \d+ on ", refused.stderr)
    assert "Traceback" not in refused.stderr


def test_all_faults_of_a_recipe_are_told_at_once_without_a_traceback(tiny, distildet, tmp_path):
    text = tiny.recipe.read_text()
    wrong = tiny.folder / "wrong.yaml"
    wrong.write_text(
        text.replace("image_size: 64", "image_size: sixty").replace(
            "threshold: auto", "treshold: 1"
        )
    )

    refused = distildet("run", wrong, "--out", tmp_path / "run")

    assert refused.returncode == 2
    assert "data.image_size" in refused.stderr
    assert "stages[0].treshold" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()


def test_the_result_has_the_keys_of_its_schema(tiny):
    result = json.loads((tiny.run / "result.json").read_text())

    assert result.keys() == {
        *("schema", "name", "seeds", "best_seed", "models", "gain", "verdict", "not_measured"),
        *("steps", "rejected_steps", "overflow_steps", "images_seen", "seconds", "warnings"),
    }
    assert result["schema"] == 1
    assert result["models"].keys() == {"teacher", "baseline", "student"}
    assert result["gain"].keys() == {"AP", "AP50"}
    assert result["gain"]["AP"].keys() == {"value", "ci95"}
    assert result["verdict"] in {"gain", "no gain", "tie", "not measured"}


@pytest.mark.parametrize("name", ["teacher", "baseline", "student"])
def test_every_model_of_the_result_has_the_same_keys(tiny, name):
    model = json.loads((tiny.run / "result.json").read_text())["models"][name]

    assert model.keys() == {
        *("metrics", "per_seed", "per_class"),
        *("parameters", "gflops", "latency_ms", "latency_device"),
    }
    assert model["metrics"].keys() == {
        *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR100"),
    }


def test_steps_and_images_seen_are_those_of_the_recipe(tiny, kills):
    result = json.loads((tiny.run / "result.json").read_text())
    first, second = kills.STEPS["02-train"], kills.STEPS["03-train"]

    assert result["steps"] == {"student": [[first, second]], "baseline": [[first, second]]}
    assert result["rejected_steps"] == {"student": [[0, 0]], "baseline": [[0, 0]]}
    assert result["overflow_steps"] == {"student": [[0, 0]], "baseline": [[0, 0]]}
    assert result["warnings"] == []
    assert result["images_seen"] == {
        "student": [[{"all": 4 * first}, {"labeled": 4 * second}]],
        "baseline": [[{"labeled": 4 * first}, {"labeled": 4 * second}]],
    }


def test_evaluate_repeats_the_metrics_of_the_result(tiny, distildet):
    images = tiny.folder / "validation"

    measured = distildet(
        *("evaluate", tiny.run / "student", "--images", images, "--json", "--device", "cpu"),
        *("--annotations", images / "annotations.json", "--workers", "0"),
    )

    student = json.loads((tiny.run / "result.json").read_text())["models"]["student"]
    assert measured.returncode == 0, measured.stderr
    assert json.loads(measured.stdout) == {
        "metrics": student["metrics"],
        "per_class": student["per_class"],
    }


def test_predict_prints_boxes_of_one_image_as_json(tiny, distildet):
    image = tiny.folder / "validation" / "000000.jpg"

    found = distildet("predict", tiny.teacher, image, "--threshold", "0.06")

    boxes = json.loads(found.stdout)["000000.jpg"]
    assert found.returncode == 0, found.stderr
    assert boxes
    assert boxes[0].keys() == {"class", "score", "box"}


def test_predict_writes_boxes_and_one_drawn_image_for_each(tiny, distildet, tmp_path):
    out = tmp_path / "found"

    found = distildet("predict", tiny.teacher, tiny.folder / "validation", "--out", out)

    names = sorted(path.name for path in (tiny.folder / "validation").glob("*.jpg"))
    assert found.returncode == 0, found.stderr
    assert sorted(json.loads((out / "detections.json").read_text())) == names
    assert sorted(path.stem for path in (out / "drawn").glob("*.png")) == names


def test_predict_leaves_a_damaged_image_out_by_name_and_keeps_the_rest(tiny, distildet, tmp_path):
    images, out = tmp_path / "images", tmp_path / "found"
    images.mkdir()
    whole = (tiny.folder / "validation" / "000000.jpg").read_bytes()
    (images / "a.jpg").write_bytes(whole)
    (images / "a.png").write_bytes(whole)
    (images / "b.jpg").write_bytes(whole[: len(whole) // 2])

    found = distildet("predict", tiny.teacher, images, "--out", out)

    assert found.returncode == 2
    assert "1 images were left out" in found.stderr
    assert "b.jpg" in found.stderr
    assert sorted(json.loads((out / "detections.json").read_text())) == ["a.jpg", "a.png"]
    assert sorted(p.name for p in (out / "drawn").iterdir()) == ["a.jpg.png", "a.png.png"]


def test_a_recipe_that_fails_before_the_work_can_be_mended_in_the_same_folder(
    tiny, distildet, tmp_path
):
    out = tmp_path / "run"

    wrong = distildet("run", tiny.recipe, "--out", out, "--set", "stages[0].threshold={cat: 0.5}")

    assert wrong.returncode == 2
    assert "threshold names the class 'cat'" in wrong.stderr
    assert not (out / "settings.json").exists()
    assert not list(out.glob("seed-*"))


def test_label_writes_a_coco_file_that_the_reference_reader_loads(tiny, distildet, tmp_path):
    out = tmp_path / "labels"

    done = distildet(
        *("label", tiny.teacher, tiny.folder / "validation", "--out", out),
        *("--threshold", "0.06", "--workers", "0"),
    )

    assert done.returncode == 0, done.stderr
    loaded = COCO(str(out / "labels.json"))
    assert len(loaded.imgs) == len(list((tiny.folder / "validation").glob("*.jpg")))
    assert loaded.anns
    assert all(annotation["score"] >= 0.06 for annotation in loaded.anns.values())


@pytest.mark.slow
def test_label_goes_on_with_the_store_and_refuses_that_of_another_teacher(
    tiny, distildet, tmp_path
):
    out, images = tmp_path / "labels", tiny.folder / "validation"
    distildet("label", tiny.teacher, images, "--out", out, "--workers", "0")
    shard = out / "store" / "shards" / "shard-00000.parquet"
    before = (shard.stat().st_ino, shard.read_bytes())

    again = distildet("label", tiny.teacher, images, "--out", out, "--workers", "0")
    other = distildet("label", tiny.run / "student", images, "--out", out, "--workers", "0")

    assert again.returncode == 0, again.stderr
    assert (shard.stat().st_ino, shard.read_bytes()) == before
    assert other.returncode == 2
    assert "holds labels of another teacher" in other.stderr


def test_list_gives_families_and_presets_as_json(distildet):
    listed = distildet("list", "--json")

    document = json.loads(listed.stdout)
    assert listed.returncode == 0, listed.stderr
    assert "retinanet" in document["detectors"]
    assert "pseudo-label" in document["presets"]


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_answers_without_loading_what_is_slow(command):
    code = (
        "import sys\n"
        "from distildet.cli import main\n"
        f"sys.argv = ['distildet', *{command!r}, '--help']\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    slow = {'torch', 'timm', 'numpy', 'pyarrow'} & sys.modules.keys()\n"
        "    print(f'loaded {sorted(slow)}')\n"
    )

    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )

    assert shown.returncode == 0, shown.stderr
    assert "Usage:" in shown.stdout
    assert shown.stdout.endswith("loaded []\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there_in_under_0_3_seconds(command, least_seconds):
    assert least_seconds([sys.executable, "-m", "distildet", command, "--help"], runs=5) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_leaves_a_checkpoint_and_goes_on_exactly(
    tiny, kills, tmp_path, number, code, workers
):
    out = tmp_path / "run"
    stage = out / f"seed-{kills.SEED}" / "02-train"
    process = kills.start(tiny.recipe, out, workers=workers)
    kills.wait_for(process, lambda: kills.last_step(stage) >= 7)

    process.send_signal(number)

    assert process.wait() == code
    assert "the same command goes on from there" in out.with_suffix(".log").read_text()
    assert (stage / "checkpoints" / f"step-{kills.last_step(stage):06d}").is_dir()
    kills.run(tiny.recipe, out, workers=workers)
    assert kills.differences(tiny.run, out) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_to_the_run_and_its_workers_leaves_a_checkpoint_too(
    tiny, kills, tmp_path, number, code
):
    out = tmp_path / "run"
    stage = out / f"seed-{kills.SEED}" / "02-train"
    process = kills.start(tiny.recipe, out, workers=2, has_own_group=True)
    kills.wait_for(process, lambda: kills.last_step(stage) >= 7)

    os.killpg(process.pid, number)

    assert process.wait() == code
    assert "Traceback" not in out.with_suffix(".log").read_text()
    assert (stage / "checkpoints" / f"step-{kills.last_step(stage):06d}").is_dir()


def test_labels_are_not_written_into_a_folder_of_the_user(tiny, distildet, tmp_path):
    (tmp_path / "labels.json").write_text("mine")

    refused = distildet("label", tiny.teacher, tiny.folder / "train", "--out", tmp_path)

    assert refused.returncode == 2
    assert "is not empty (it has 'labels.json')" in refused.stderr
    assert (tmp_path / "labels.json").read_text() == "mine"

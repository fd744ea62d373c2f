"""Runs with two teachers that know different classes: fused, killed, in rounds, without labels."""

import json

import pytest

from distildet.data.synthetic import make_scenes
from distildet.pseudolabels.store import PseudoLabelStore
from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.runner import run_recipe

SEED = 3
TEACHER = """\
name: {name}
data:
  image_size: {size}
  workers: 0
  labeled: {{format: coco, images: {name}, annotations: {name}/annotations.json}}
student: {{detector: {family}, {options}}}
stages:
  - {{stage: train, steps: 30, batch_size: 6, optimizer: {{lr: 3e-3}}, evaluations: 1}}
"""
OPTIONS = (
    "backbone: mobilenetv2_050, pretrained: false, backbone_levels: [C3, C4], extra_levels: 0, "
    "neck_channels: 16, head_depth: 1, head_norm: group"
)
STUDENT = f"""\
name: student
seeds: [{SEED}]
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: train, annotations: train/annotations.json, fraction: 0.5}}
  unlabeled: [labeled-rest]
  validation: {{format: coco, images: validation, annotations: validation/annotations.json}}
teachers: [{{detector: round/run/student}}, {{detector: angular/run/student, trust: 2}}]
student: {{detector: retinanet, {OPTIONS}, anchor_scale: 2}}
stages:
  - {{stage: label, images: unlabeled, ignore_floor: 0.01, fallback_threshold: 0.02}}
  - stage: train
    images: {{labeled: 1, unlabeled: 1}}
    steps: 6
    batch_size: 4
    optimizer: {{lr: 2e-3}}
    evaluations: 1
  - {{stage: label, by: all, images: all, ignore_floor: 0.01, fallback_threshold: 0.02}}
  - stage: train
    images: {{all: 1}}
    targets: {{all: pseudo}}
    steps: 4
    batch_size: 4
    optimizer: {{lr: 1e-3}}
    evaluations: 1
baseline: true
"""
# A recipe that has images alone: the classes are those of the teachers.
UNLABELED = f"""\
name: unlabeled
preset: pseudo-label
data:
  image_size: 64
  workers: 0
  unlabeled: [{{format: folder, images: train}}]
teachers: [{{detector: round/run/student}}, {{detector: angular/run/student}}]
student: {{detector: retinanet, {OPTIONS}, anchor_scale: 2}}
"""
ROUND, ANGULAR = ("circle", "ellipse"), ("ellipse", "square", "pentagon", "triangle")


@pytest.fixture(scope="module")
def work(kills, tmp_path_factory):
    """Scenes, and two hardly trained teachers of different families, classes and image sizes."""
    folder = tmp_path_factory.mktemp("several")
    for name, classes, family, size in (
        ("round", ROUND, "retinanet", 64),
        ("angular", ANGULAR, "fcos", 96),
    ):
        make_scenes(folder / name, images=30, seed=4, size=64, classes=classes)
        recipe = folder / f"{name}.yaml"
        recipe.write_text(TEACHER.format(name=name, family=family, options=OPTIONS, size=size))
        kills.run(recipe, folder / name / "run")
    make_scenes(folder / "train", images=24, seed=0, size=64)
    make_scenes(folder / "validation", images=6, seed=1, size=64)
    (folder / "student.yaml").write_text(STUDENT)
    (folder / "unlabeled.yaml").write_text(UNLABELED)
    return folder


@pytest.fixture(scope="module")
def reference(work, kills):
    kills.run(work / "student.yaml", work / "reference")
    return work / "reference"


@pytest.mark.slow
def test_the_fused_labels_have_the_classes_of_both_teachers(reference):
    stage = reference / f"seed-{SEED}" / "01-label"

    stores = [PseudoLabelStore.open(stage / "teachers" / key / "store").read() for key in "01"]
    fused = PseudoLabelStore.open(stage / "store")

    classes = list(fused.classes)
    names = [
        {classes[i] for entry in one.values() for i in entry.detections.labels.tolist()}
        for one in stores
    ]
    assert (names[0] <= set(ROUND), names[1] <= set(ANGULAR)) == (True, True)
    found = fused.read().values()
    assert {classes[i] for one in found for i in one.detections.labels.tolist()} == set.union(
        *names
    )


@pytest.mark.slow
def test_the_result_has_every_teacher_and_the_best(reference):
    result = json.loads((reference / "result.json").read_text())

    assert len(result["teachers"]) == 2
    aps = [model["metrics"]["AP"] for model in result["teachers"]]
    assert result["models"]["teacher"] == result["teachers"][result["best_teacher"]]
    assert result["models"]["teacher"]["metrics"]["AP"] == max(aps)
    # Each was measured on its own detections.
    assert result["teachers"][0]["parameters"] != result["teachers"][1]["parameters"]
    assert result["teachers"][0]["metrics"] != result["teachers"][1]["metrics"]
    assert result["models"].keys() == {"teacher", "baseline", "student"}


@pytest.mark.slow
def test_the_second_round_has_the_student_and_what_the_teachers_said_of_new_images(reference):
    stage = reference / f"seed-{SEED}" / "03-label"

    assert sorted(path.name for path in (stage / "teachers").iterdir()) == ["0", "1", "student"]
    quality = json.loads((stage / "quality.json").read_text())
    assert [one["name"] for one in quality["teachers"]] == [
        "teachers[0]", "teachers[1]", "student"
    ]  # fmt: skip
    assert PseudoLabelStore.open(stage / "store").num_images == 24


@pytest.mark.slow
def test_a_run_killed_while_it_labels_and_fuses_ends_in_the_same_files(work, reference, kills):
    out = work / "killed"
    first, third = (out / f"seed-{SEED}" / name for name in ("01-label", "03-label"))
    moments = [
        first / "teachers" / "0" / "store" / "manifest.json",
        first / "calibration" / "1" / "store" / "manifest.json",
        first / "store" / "manifest.json",
        third / "teachers" / "student" / "store" / "manifest.json",
    ]

    for moment in moments:
        process = kills.start(work / "student.yaml", out)
        kills.wait_for(process, moment.exists)
        process.kill()
        process.wait()
    kills.run(work / "student.yaml", out)

    assert kills.differences(reference, out) == []


@pytest.mark.slow
def test_a_stage_distills_from_the_teacher_that_it_names(work):
    def train(teacher):
        loss = f"[{{loss: feature-imitation, levels: [P3], teacher: {teacher}}}]"
        plain = "{stage: train, steps: 3, batch_size: 4, optimizer: {lr: 2e-3}, evaluations: 1}"
        recipe = load_recipe(
            work / "student.yaml",
            [f"stages=[{plain}]", f"stages[0].distill={loss}", "baseline=false"],
        )
        out = work / f"distilled-{teacher}"
        run_recipe(recipe, out=out, device="cpu", progress=Silence())
        return (out / "student" / "model.safetensors").read_bytes()

    assert train(0) != train(1)


@pytest.mark.slow
def test_without_labels_nothing_is_tuned_or_measured_and_that_is_said(work, distildet):
    steps = ("--set", "stages[1].epochs=null", "--set", "stages[1].steps=2")
    floor = ("--set", "stages[0].ignore_floor=0", "--set", "stages[0].fallback_threshold=0.01")

    done = distildet(
        "run", work / "unlabeled.yaml", "--out", work / "unlabeled", *steps, *floor,
        "--set", "stages[1].batch_size=4", timeout=300,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "There are no labeled images: no stage learns from human labels" in done.stdout
    assert "verdict: not measured" in done.stdout
    assert "not measured: metrics: the recipe has no data.validation" in done.stdout
    assert "gain: the recipe has no baseline, which learns from data.labeled" in done.stdout
    stages = sorted(path.name for path in (work / "unlabeled" / "seed-0").iterdir())
    assert stages == ["01-label", "02-train"]
    classes = PseudoLabelStore.open(work / "unlabeled" / "seed-0" / "01-label" / "store").classes
    # Those of the first, then what only the second knows.
    assert list(classes) == ["circle", "ellipse", "square", "pentagon", "triangle"]
    written = json.loads(
        (work / "unlabeled" / "seed-0" / "01-label" / "calibration.json").read_text()
    )
    assert written["method"] == "rank"

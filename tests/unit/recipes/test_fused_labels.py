"""Label stages with several teachers of different classes, calibrated and fused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.detectors.bundle import save_detector
from distildet.detectors.retinanet import RetinaNet
from distildet.errors import GateError, StoreError
from distildet.pseudolabels.store import PseudoLabelStore
from distildet.recipes.declared import teacher_of
from distildet.recipes.label_stage import run_label_stage
from distildet.recipes.labelers import known_classes, stage_labelers
from distildet.recipes.load import load_recipe
from distildet.recipes.run_context import RunContext, Teacher, share_classes
from distildet.recipes.run_data import load_run_data
from distildet.training.interruption import interruptible

CLASSES = ClassList(("car", "dog"))
RECIPE = """
name: several
data:
  image_size: 32
  workers: 0
  labeled: {{format: coco, images: images, annotations: labels.json, fraction: 0.5}}
  unlabeled: [labeled-rest]
teachers:
  - {{detector: {0}}}
  - {{detector: {1}, trust: 2}}
student: {{detector: retinanet, backbone: test_efficientnet, pretrained: false}}
baseline: false
stages:
  - {{stage: label, images: all, threshold: 0.0, ignore_floor: 0.0, fallback_threshold: 0.0}}
  - {{stage: train, images: {{all: 1}}, steps: 1, batch_size: 1, optimizer: {{lr: 1e-3}}}}
  - {{stage: label, by: all, images: unlabeled, threshold: 0.0, ignore_floor: 0.0,
      fallback_threshold: 0.0}}
  - {{stage: train, images: {{unlabeled: 1}}, steps: 1, batch_size: 1, optimizer: {{lr: 1e-3}}}}
"""


class Listener:
    """Progress that keeps what it is told."""

    def __init__(self):
        self.messages = []
        self.works = []

    def message(self, text):
        self.messages.append(text)

    def advance(self, work, done, total, values=None):
        self.works.append(work)


def save_tiny(folder, classes, seed, bias=0.0):
    torch.manual_seed(seed)
    detector = RetinaNet(
        ClassList(classes),
        backbone="test_efficientnet",
        image_size=32,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        max_detections=5,
    )
    # Untrained scores lie below its floor.
    torch.nn.init.constant_(detector.head.classification_head.cls_logits.bias, bias)
    save_detector(detector, folder)
    return folder


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """The first knows cars and dogs, the second dogs alone, the third is a student of both."""
    folder = tmp_path_factory.mktemp("bundles")
    return [
        save_tiny(folder / "first", ("car", "dog"), 0),
        save_tiny(folder / "second", ("Dog", "cow"), 1),
        save_tiny(folder / "trained" / "student", ("car", "dog"), 2),
    ]


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    values = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    [
        Image.fromarray(value).save(tmp_path / "images" / f"{name}.png")
        for name, value in zip("abcd", values, strict=True)
    ]
    document = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 32, "width": 32}
            for i, name in enumerate("abcd")
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i // 2, "category_id": 1 + i % 2, "bbox": [4, 4, 20, 20],
             "area": 400, "iscrowd": 0}
            for i in range(8)
        ],
    }  # fmt: skip
    (tmp_path / "labels.json").write_text(json.dumps(document))
    return tmp_path / "images"


@pytest.fixture
def stage(bundles, images, tmp_path):
    """Run a label stage of a recipe; return its folder and what was told."""
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(*bundles))

    def run(*overrides, index=0, seed=0):
        recipe = load_recipe(tmp_path / "recipe.yaml", overrides)
        progress = Listener()
        teachers = tuple(map(teacher_of, recipe.teachers))
        share_classes(teachers, CLASSES)
        with interruptible() as interruption:
            context = RunContext(
                recipe=recipe,
                data=load_run_data(recipe.data),
                classes=CLASSES,
                out=tmp_path / "run",
                device=torch.device("cpu"),
                interruption=interruption,
                progress=progress,
                teachers=teachers,
            )
            folder = tmp_path / "run" / f"seed-{seed}" / f"0{index + 1}-label"
            previous = bundles[2].parent
            run_label_stage(context, recipe.stages[index], folder, previous=previous)
        return folder, progress

    return run


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def stored(folder):
    return PseudoLabelStore.open(folder).read()


def test_each_teacher_has_a_store_and_the_fused_one_has_all_classes(stage):
    folder, _ = stage("stages[0].fusion.duplicates_iou=1")

    first, second = (stored(folder / "teachers" / key / "store") for key in "01")
    fused = stored(folder / "store")
    assert {label for entry in second.values() for label in entry.detections.labels.tolist()} == {1}
    found = torch.cat([entry.detections.labels for entry in fused.values()])
    assert set(found.tolist()) == {0, 1}
    assert list(fused) == list(first) == list(second)
    assert PseudoLabelStore.open(folder / "store").classes == CLASSES


def test_labeled_images_calibrate_by_default_and_it_is_told(stage):
    folder, progress = stage()

    written = json.loads((folder / "calibration.json").read_text())
    assert written["method"] == "temperature"
    assert [one["name"] for one in written["teachers"]] == ["teachers[0]", "teachers[1]"]
    first = written["teachers"][0]
    assert first.keys() == {
        "name", "detections", "right", "error_before", "error_after", "classes"
    }  # fmt: skip
    # Two labeled images with five detections each.
    assert first["detections"] == 10
    assert first["error_after"] < first["error_before"]
    lines = [line for line in progress.messages if "calibrated" in line]
    assert [line.partition(":")[0] for line in lines] == ["teachers[0]", "teachers[1]"]
    assert "(temperature) on 10 detections" in lines[0]
    # All images were labeled: the labeled ones among them.
    assert not (folder / "calibration").exists()


def test_the_quality_of_each_teacher_is_measured_beside_that_of_all(stage):
    folder, progress = stage()

    quality = json.loads((folder / "quality.json").read_text())
    assert quality["num_objects"] == 4
    assert [(one["name"], one["num_classes"]) for one in quality["teachers"]] == [
        ("teachers[0]", 2), ("teachers[1]", 1)
    ]  # fmt: skip
    # The second knows the dogs alone, of which two are hidden.
    assert quality["teachers"][1]["num_objects"] == 2
    lines = [line for line in progress.messages if "recall" in line]
    assert len(lines) == 3
    assert lines[2].startswith("  teachers[1] alone, on its 1 classes: precision ")


@pytest.mark.parametrize("with_another", [False, True])
def test_objects_of_classes_that_nobody_looked_for_do_not_count(
    stage, bundles, tmp_path, with_another
):
    other = save_tiny(tmp_path / "other", ("dog",), 3)
    entries = [f"{{detector: {path}, unknown_classes: [car]}}" for path in (bundles[1], other)]

    folder, _ = stage(f"teachers=[{', '.join(entries[: 1 + with_another])}]")

    quality = json.loads((folder / "quality.json").read_text())
    # Of four hidden objects two are dogs: the denominator of all is that of each.
    counts = [one["num_objects"] for one in (quality, *quality.get("teachers", ()))]
    assert counts == [2] * (1 + 2 * with_another)
    assert quality["per_class"]["car"]["num_objects"] == 0


def test_labeled_images_outside_of_the_stage_are_labeled_for_the_calibration(stage):
    folder, _ = stage("stages[0].images=unlabeled", "stages[1].images={unlabeled: 1}")

    labeled = stored(folder / "calibration" / "1" / "store")
    assert len(labeled) == 2
    assert labeled.keys().isdisjoint(stored(folder / "store"))


def test_a_teacher_without_a_detection_keeps_its_scores_and_says_so(stage, tmp_path):
    silent = save_tiny(tmp_path / "silent", ("car", "dog"), 1, bias=-20.0)

    folder, progress = stage(f"teachers[1].detector={silent}")

    assert (
        "teachers[1]: no detection on the labeled images, so that its scores stay as they are."
        in progress.messages
    )
    second = json.loads((folder / "calibration.json").read_text())["teachers"][1]
    assert second["detections"] == 0
    assert second["error_before"] is None
    assert second["classes"]["car"] == {"slope": 1.0, "bias": 0.0}


@pytest.mark.parametrize("calibration", ["isotonic", "rank", "none"])
def test_other_calibrations_are_made(stage, calibration):
    folder, _ = stage(f"stages[0].calibration={calibration}")

    assert len(stored(folder / "store")) == 4
    assert (folder / "calibration.json").exists() == (calibration != "none")


def test_one_teacher_is_calibrated_where_that_is_asked(stage, bundles):
    one = f"teachers=[{{detector: {bundles[0]}}}]"

    plain, _ = stage(one)
    calibrated, _ = stage(one, "stages[0].calibration=temperature", seed=1)

    assert not (plain / "teachers").exists()
    raw, fused = stored(plain / "store"), stored(calibrated / "store")
    assert [len(fused[name].detections) for name in raw] == [5] * 4
    # The same boxes; each class has a curve of its own, which may change their order.
    boxes = [sorted(one["a.png"].detections.boxes.tolist()) for one in (raw, fused)]
    assert boxes[0] == boxes[1]
    assert fused["a.png"].detections.scores[0] != raw["a.png"].detections.scores[0]


def test_a_stage_that_stopped_after_the_teachers_goes_on_to_the_same_bytes(stage):
    folder, _ = stage()
    expected = content_of(folder)
    shutil.rmtree(folder / "store")
    (folder / "DONE").unlink()

    _, progress = stage()

    assert content_of(folder) == expected
    assert [work for work in progress.works if "teachers" in work] == []


def test_another_way_of_fusing_makes_the_fused_store_alone_anew(stage):
    folder, _ = stage()
    teachers, fused = content_of(folder / "teachers"), content_of(folder / "store")
    (folder / "DONE").unlink()

    _, progress = stage("stages[0].fusion.method=nms")

    assert content_of(folder / "teachers") == teachers
    assert content_of(folder / "store") != fused
    assert [work for work in progress.works if "teachers" in work] == []


def test_a_store_that_is_not_fused_is_never_replaced(stage):
    folder, _ = stage()
    (folder / "DONE").unlink()
    shutil.rmtree(folder / "store")
    shutil.copytree(folder / "teachers" / "0" / "store", folder / "store")

    with pytest.raises(StoreError, match=r"store: holds what one teacher has said alone"):
        stage()


def cut_short(path):
    path.write_bytes(path.read_bytes()[:300])


def test_an_image_that_is_bad_for_one_teacher_is_set_aside_with_its_name(stage, images, tmp_path):
    document = json.loads((tmp_path / "labels.json").read_text())
    document["images"] = [one for one in document["images"] if one["file_name"] != "b.png"]
    document["annotations"] = [
        {**one, "score": 0.9} for one in document["annotations"] if one["image_id"] != 1
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(document))

    folder, _ = stage(f"teachers[1]={{detector: results, file: {tmp_path / 'boxes.json'}}}")

    assert sorted(stored(folder / "teachers" / "0" / "store")) == [f"{name}.png" for name in "abcd"]
    assert not (folder / "teachers" / "0" / "quarantine.jsonl").exists()
    listed = json.loads((folder / "quarantine.jsonl").read_text())
    alone = json.loads((folder / "teachers" / "1" / "quarantine.jsonl").read_text())
    assert listed == {**alone, "error": f"teachers[1]: {alone['error']}"}
    assert (listed["file"], listed["stage"]) == ("b.png", "teacher")
    assert sorted(stored(folder / "store")) == ["a.png", "c.png", "d.png"]


def test_an_image_that_cannot_be_decoded_is_set_aside(stage, images):
    cut_short(images / "b.png")

    folder, _ = stage()

    listed = (folder / "quarantine.jsonl").read_text()
    assert listed == (folder / "teachers" / "0" / "quarantine.jsonl").read_text()
    assert json.loads(listed)["file"] == "b.png"
    assert "b.png" not in stored(folder / "store")


def test_more_bad_images_than_accepted_end_the_stage(stage, images):
    [cut_short(images / f"{name}.png") for name in "ab"]

    with pytest.raises(GateError, match=r"quarantine\.jsonl: lists 2 of 4 images"):
        stage("stages[0].max_bad_fraction=0.25")


def test_another_seed_takes_what_the_teachers_said(stage):
    first, _ = stage()

    second, progress = stage(seed=1)

    assert content_of(second) == content_of(first)
    assert [work for work in progress.works if "teachers" in work] == []


def test_a_round_on_the_same_images_takes_what_the_teachers_said(stage):
    first, _ = stage()

    second, progress = stage("stages[2].images=all", index=2)

    for key in "01":
        assert content_of(second / "teachers" / key) == content_of(first / "teachers" / key)
    assert {work.split("/")[-1] for work in progress.works if "teachers" in work} == {"student"}


def test_two_processes_run_a_stage_to_the_bytes_of_one(stage, in_processes):
    # Nothing is measured: threads of the evaluator would not outlive the fork.
    overrides = [
        "stages[0].calibration=rank", "data.labeled.fraction=1", "data.unlabeled=[]",
        "stages[2].images=labeled", "stages[3].images={labeled: 1}",
    ]  # fmt: skip
    folder, _ = stage(*overrides)
    expected = content_of(folder)
    shutil.rmtree(folder.parent)

    in_processes(lambda: stage(*overrides)[1].messages)

    assert content_of(folder) == expected


def test_the_student_labels_beside_the_teachers_in_a_later_round(stage):
    folder, progress = stage(index=2)

    assert sorted(path.name for path in (folder / "teachers").iterdir()) == ["0", "1", "student"]
    settings = json.loads((folder / "store" / "manifest.json").read_text())["settings"]
    assert [one["trust"] for one in settings["teachers"]] == [1.0, 2.0, 1.0]
    assert any(line.startswith("student: scores calibrated") for line in progress.messages)


def test_the_student_alone_labels_into_the_store_itself(stage, bundles):
    folder, _ = stage("stages[2].by=student", index=2)

    manifest = json.loads((folder / "store" / "manifest.json").read_text())
    assert manifest["settings"]["teacher"] == Teacher(bundles[2]).fingerprint
    assert not (folder / "teachers").exists()


def test_another_student_does_not_take_labels_of_the_first(stage, bundles, tmp_path):
    first, _ = stage("stages[2].by=student", index=2)
    kept = tmp_path / "kept"
    shutil.copytree(bundles[2], kept)
    save_tiny(bundles[2], ("car", "dog"), 3)

    second, progress = stage("stages[2].by=student", index=2, seed=1)

    shutil.rmtree(bundles[2])
    shutil.copytree(kept, bundles[2])
    assert progress.works
    assert content_of(second / "store") != content_of(first / "store")


@pytest.fixture
def rounds(bundles, images, tmp_path):
    """Return a run of a recipe whose only teacher knows dogs alone."""
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(*bundles))

    def make(*overrides):
        only = f"teachers=[{{detector: {bundles[1]}, unknown_classes: [car]}}]"
        recipe = load_recipe(tmp_path / "recipe.yaml", [only, *overrides])
        return RunContext(
            recipe=recipe,
            data=load_run_data(recipe.data),
            classes=CLASSES,
            out=tmp_path / "run",
            device=torch.device("cpu"),
            interruption=None,
            progress=Listener(),
            teachers=(Teacher(bundles[1], unknown_classes=["car"]),),
        )

    return make


HUMAN = "{stage: train, images: {labeled: 1}, steps: 1, batch_size: 1, optimizer: {lr: 1e-3}"
PSEUDO = "{stage: train, images: {all: 1}, steps: 1, batch_size: 1, optimizer: {lr: 1e-3}"


@pytest.mark.parametrize(
    ("first", "second", "taught"),
    [
        # Pseudo-labels teach what the teacher knows, whatever human labels there are.
        ("{stage: label}", f"{PSEUDO}}}", [False, True]),
        # Human labels teach every class, and later stages take none of them away,
        ("{stage: label}", f"{HUMAN}}}", [True, True]),
        (f"{HUMAN}}}, {{stage: label}}", f"{PSEUDO}}}", [True, True]),
        # but a student that begins anew has not learned from them.
        (f"{HUMAN}}}, {{stage: label}}", f"{PSEUDO}, init: pretrained}}", [False, True]),
        # Labels of a student have the classes that it was taught.
        (f"{HUMAN}}}, {{stage: label, by: all}}", f"{PSEUDO}, init: pretrained}}", [True, True]),
        (
            f"{{stage: label}}, {PSEUDO}}}, {{stage: label, by: student}}",
            f"{PSEUDO}, init: pretrained}}",
            [False, True],
        ),
    ],
)
@pytest.mark.parametrize("by", ["student", "all"])
def test_a_student_labels_the_classes_that_it_was_taught(
    rounds, bundles, by, first, second, taught
):
    last = f"{{stage: label, by: {by}}}"
    context = rounds(f"stages=[{first}, {second}, {last}, {PSEUDO}}}]")
    stage = context.recipe.stages[-2]

    student = stage_labelers(context, stage, bundles[2].parent)[-1]

    assert student.known(CLASSES).tolist() == taught
    assert known_classes(context, stage).tolist() == taught


def test_a_student_that_begins_with_given_weights_labels_all_classes(rounds, bundles):
    given = f"{PSEUDO}, init: {bundles[2]}}}"
    context = rounds(f"stages=[{{stage: label}}, {given}, {{stage: label, by: all}}, {PSEUDO}}}]")

    assert known_classes(context, context.recipe.stages[2]).tolist() == [True, True]

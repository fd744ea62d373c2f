"""Teachers, class lists and weights that do not fit a recipe: refused at once, or told by name."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

from distildet.detectors.stock_classes import coco_columns

# The trees and the ways to spoil them, shared by several test files; tests are not a package.
_spec = importlib.util.spec_from_file_location(
    "wrong_recipe_cases", Path(__file__).with_name("wrong_recipe_cases.py")
)
recipes = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = recipes
_spec.loader.exec_module(recipes)

cases, Case, RUN = recipes.cases, recipes.Case, recipes.RUN
begun, bundle, categories = recipes.begun, recipes.bundle, recipes.categories
distilling, edited, set_to = recipes.distilling, recipes.edited, recipes.set_to
weights = recipes.weights
LABEL_STAGE, TEACHER = recipes.LABEL_STAGE, recipes.TEACHER
teacher, tree, call = recipes.teacher, recipes.tree, recipes.call
distilled = recipes.distilled

ONNX = (
    "{detector: onnx, weights: t.onnx, classes: [car, no], image_size: 64, output: {layout: grid}, "
    "input: {layout: nchw, colour: rgb, range: 1, resize: stretch}}"
)

TEACHER_CASES = [
    Case(
        name="66 a synonym",
        change=bundle("teacher", "motorcar", "no"),
        says=(
            "teachers[0]: the teacher has no class 'car'. Nearest: 'motorcar'. Name its "
            "counterpart in class_map, as in {motorcar: car}, or list 'car' in unknown_classes.",
        ),
    ),
    Case(
        name="66 a class that the teacher lacks",
        change=bundle("teacher", "car", "dog"),
        says=("teachers[0]: the teacher has no class 'no'. Nothing is similar.", "unknown_classes"),
    ),
    Case(
        name="66 names that do not exist",
        change=edited(
            (TEACHER, "{detector: teacher, class_map: {caar: car, no: not}, unknown_classes: [cr]}")
        ),
        says=(
            "teachers[0]: class_map has 'caar', which is no class of the teacher. Nearest: 'car'.",
            "teachers[0]: class_map maps 'no' to 'not', which is no class of the student.",
            "teachers[0]: unknown_classes has 'cr', which is no class of the student.",
        ),
    ),
    Case(
        name="69 a bundle whose weights are cut",
        change=lambda tree: os.truncate(tree / "teacher" / "model.safetensors", 9000),
        says=("teachers[0]: ", "in/teacher: the bundle is damaged", "take another copy"),
    ),
    Case(
        name="a bundle of a newer version",
        change=cases.content("teacher/config.json", b'{"format": 99}'),
        says=("teachers[0]: ", "config.json: bundle format 99 is newer", "Update distildet."),
    ),
    Case(
        name="a folder that is no bundle",
        change=edited((TEACHER, "{detector: images}")),
        says=("teachers[0]: ", "in/images: not a detector bundle.", "such as runs/NAME/student"),
    ),
    Case(
        name="68 a pickle with code of a module that torch blocks",
        change=weights({"a": recipes.BlockedCode()}),
        says=("teachers[0]: ", "in/t.pth: contains code (posix.mkdir), which is never run."),
    ),
    Case(
        name="68 a pickle with code",
        change=weights({"a": recipes.UnknownCode()}),
        says=("teachers[0]: ", "in/t.pth: contains code (shutil.rmtree), which is never run."),
    ),
    Case(
        name="weights of something else",
        change=weights({"a": torch.zeros(3)}),
        says=("teachers[0]: ", "in/t.pth: these are no weights of a known detector", "Accepted: "),
    ),
    Case(
        name="35 an ONNX file that was never fetched",
        change=cases.all_of(
            cases.content("t.onnx", b"version https://git-lfs.github.com/spec/v1\n"),
            edited((TEACHER, ONNX)),
        ),
        says=("teachers[0]: ", "in/t.onnx: the file is a Git LFS pointer, not an ONNX model"),
    ),
    Case(
        name="an ONNX file that is none",
        change=cases.all_of(cases.content("t.onnx", b"PK"), edited((TEACHER, ONNX))),
        says=("teachers[0]: ", "in/t.onnx: ONNX Runtime ", "cannot open it"),
    ),
    Case(
        name="51 a file of boxes without scores",
        change=edited((TEACHER, "{detector: results, file: train.json}")),
        says=("teachers[0]: ", "in/train.json: 'score' must be a number 0..1", "annotations[0]"),
    ),
    Case(
        name="67 a file of boxes where weights are needed",
        change=cases.all_of(
            edited((TEACHER, "{detector: results, file: train.json}")),
            distilling("loss: feature-imitation"),
        ),
        says=("stages[1].distill: found feature-imitation, but of the teacher nothing is known",),
    ),
    Case(
        name="classes of a bundle",
        change=edited((TEACHER, "{detector: teacher, classes: [car, no]}")),
        says=("teachers[0]: ", "in/teacher: classes cannot be given for a bundle", "Accepted for"),
    ),
    Case(
        name="a threshold of an unknown class",
        change=edited(("threshold: 0.2", "threshold: {null: 0.5}")),
        says=("stages[0]: threshold names the class 'null'. Accepted: car, no.",),
    ),
    Case(
        name="weights to start from of other shapes",
        change=cases.all_of(
            bundle("start", "car", "no", neck_channels=4),
            edited(("steps: 1", "steps: 1, init: start")),
        ),
        says=("stages[1]: ", "in/start: these weights do not fit the student", "init: pretrained"),
    ),
    Case(
        name="weights to start from of other classes",
        change=cases.all_of(
            bundle("start", "no", "car"), edited(("steps: 1", "steps: 1, init: start"))
        ),
        says=("stages[1]: ", "in/start: the weights are for the classes no, car, the student"),
    ),
    Case(
        name="a loss that does not fit the pair",
        change=cases.all_of(
            bundle("teacher", "car", "no", backbone_levels=("C4", "C5")),
            edited(("[C3, C4]", "[C3]")),
            distilling("loss: feature-imitation"),
        ),
        says=(
            "stages[1].distill[0]: loss 'feature-imitation' does not fit this pair",
            "The student has P3; the teacher has P4, P5.",
        ),
    ),
    Case(
        name="a loss of heads and a teacher with another kind of head",
        change=cases.all_of(
            edited(("detector: retinanet", "detector: faster_rcnn"), (", head_depth: 1}", "}")),
            distilling("loss: adaptive"),
        ),
        says=(
            "stages[1].distill[0]: loss 'adaptive' does not fit this pair: the student "
            "'faster_rcnn' has a region head, the teacher 'retinanet' a dense head.",
            "losses fit this pair: feature-imitation, foreground-imitation, global-knowledge, "
            "hands-on-guidance.",
        ),
    ),
    Case(
        name="options of a loss, where the pair is not at fault",
        change=distilling("loss: adaptive, gamma: -1, theta: -2"),
        says=(
            "in/recipe.yaml: stages[1].distill[0]: gamma: found -1.0. Accepted: a finite number "
            "of 0 or more.\n",
            "stages[1].distill[0]: theta: found -2.0. Accepted: a finite number of 0 or more.\n",
        ),
    ),
    Case(
        name="data and teacher at once",
        change=cases.all_of(
            cases.content("train.json", b"[]"), cases.content("teacher/config.json", b"{")
        ),
        says=(
            "2 faults:",
            "data.labeled: ",
            "train.json: found a list",
            "teachers[0]: ",
            "config.json: not a bundle",
        ),
    ),
    Case(
        name="data, class list and stages at once",
        change=cases.all_of(
            bundle("teacher", "cat", "dog"),
            bundle("start", "no", "car"),
            edited(
                ("images: pool", "images: images"),
                ("threshold: 0.2", "threshold: {cra: 0.5}"),
                ("steps: 1", "steps: 1, init: start"),
            ),
            distilling("loss: feature-imitation, levels: [P7]"),
        ),
        says=(
            "6 faults:",
            "stages[0].images: the stream 'unlabeled' has no image.",
            "teachers[0]: the teacher has no class 'car'.",
            "teachers[0]: the teacher has no class 'no'.",
            "stages[0]: threshold names the class 'cra'.",
            "stages[1]: ",
            "in/start: the weights are for the classes",
            "stages[1].distill[0]: levels: P7 is not on both sides.",
        ),
    ),
    Case(
        name="a damaged teacher, class lists and weights to start from at once",
        change=cases.all_of(
            bundle("other", "dog", "no"),
            bundle("start", "no", "car"),
            cases.content("teacher/config.json", b"{"),
            edited(
                (TEACHER, "{detector: teacher}, {detector: other, class_map: {dgo: car}}"),
                (LABEL_STAGE, ""),
                ("labeled: 1, unlabeled: 1", "labeled: 1"),
                ("steps: 1", "steps: 1, init: start"),
            ),
        ),
        says=(
            "3 faults:",
            "teachers[0]: ",
            "config.json: not a bundle",
            # That it lacks 'car' is no fault, since the first may have it.
            "teachers[1]: class_map has 'dgo', which is no class of the teacher. Nearest: 'dog'.",
            "stages[0]: ",
            "in/start: the weights are for the classes",
        ),
    ),
]


@pytest.mark.parametrize(
    "case",
    TEACHER_CASES,
    ids=lambda case: case.name,
)
def test_wrong_teachers_are_answered_by_name_and_nothing_is_begun(case, distilled, call):
    case.change(distilled)
    before = cases.state(distilled)

    code, printed = call(case.command, case.file)

    assert code == case.code, printed
    assert [text for text in case.says if text not in printed] == [], printed
    assert "Traceback" not in printed
    assert cases.state(distilled) == before
    assert begun(Path("out")) == []


FITTING_TEACHERS = [
    Case(
        name="66 another order",
        change=bundle("teacher", "no", "car"),
        says=("\n  car  <-  car\n  no   <-  no\n",),
    ),
    Case(
        name="66 other case and punctuation",
        change=bundle("teacher", "CAR", "n_o"),
        says=("\n  car  <-  CAR (spelling)\n  no   <-  n_o (spelling)\n",),
    ),
    Case(
        name="66 a synonym in class_map",
        change=cases.all_of(
            bundle("teacher", "motorcar", "no"),
            edited((TEACHER, "{detector: teacher, class_map: {motorcar: car}}")),
        ),
        says=("\n  car  <-  motorcar (class_map)\n  no   <-  no\n",),
    ),
    Case(
        name="66 a class in unknown_classes",
        change=cases.all_of(
            bundle("teacher", "car", "dog"),
            edited((TEACHER, "{detector: teacher, unknown_classes: [no]}")),
        ),
        says=("\n  car  <-  car\n  no   <-  (nothing)\n  left out: dog\n",),
    ),
    Case(
        name="66 eighty classes for two",
        change=cases.all_of(
            bundle("teacher", *coco_columns().values()), categories("stop-sign", "Sofa")
        ),
        says=(
            "Student's class <- class of ",
            "\n  stop-sign  <-  stop sign (spelling)\n  Sofa       <-  couch (alias)\n",
            "\n  left out: person, bicycle, car, ",
        ),
    ),
    Case(
        name="72 class names that YAML readers take for something else",
        change=cases.all_of(
            bundle("teacher", "12:30", "null", "on", "no"),
            categories("no", "on", "null", "12:30"),
            edited(("threshold: 0.2", "threshold: {no: 0.2, on: 2e-1, null: 0.2, 12:30: 0.2}")),
        ),
        says=("\n  no     <-  no\n  on     <-  on\n  null   <-  null\n  12:30  <-  12:30\n",),
    ),
]


@pytest.mark.parametrize("case", FITTING_TEACHERS, ids=lambda case: case.name)
def test_teachers_whose_classes_fit_by_name_are_taken_and_the_table_is_shown(case, distilled, call):
    case.change(distilled)
    before = cases.state(distilled)

    code, printed = call(RUN)

    assert code == 0, printed
    assert [text for text in case.says if text not in printed] == [], printed
    assert (Path("out") / "student" / "model.safetensors").is_file()
    assert cases.state(distilled) == before


def test_a_run_stopped_by_bad_images_goes_on_after_the_limit_is_raised(distilled, call):
    cases.content("pool/q.png", b"")(distilled)

    stopped, reason = call(set_to("stages[0].max_bad_fraction=0"))
    code, printed = call(set_to("stages[0].max_bad_fraction=0.5"))

    assert stopped == 5, reason
    assert "raise max_bad_fraction" in reason
    assert code == 0, printed
    assert "Left out: 1 of 2 images" in printed


def test_what_is_noted_about_the_data_is_listed_under_one_line(distilled, call):
    (distilled / "images" / "b.png").write_bytes((distilled / "more" / "v.png").read_bytes())
    validation = "  validation: {format: coco, images: more, annotations: val.json}\n"
    edited(("  unlabeled:", f"{validation}  unlabeled:"))(distilled)

    _, printed = call(RUN)

    assert (
        "\nLeft out of the data, or worth a look:\n"
        "  1 images of data.labeled are learned from, although images of data.validation have the "
        "same bytes: 'images/b.png' = 'more/v.png'."
    ) in f"\n{printed}"

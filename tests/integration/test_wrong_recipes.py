"""Wrong recipes: all faults are told at once, by their key and with a remedy; nothing is begun."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector, save_detector
from distildet.detectors.stock_classes import coco_columns

# The trees and the ways to spoil them, shared by several test files; tests are not a package.
_spec = importlib.util.spec_from_file_location(
    "wrong_input_cases", Path(__file__).with_name("wrong_input_cases.py")
)
cases = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = cases  # dataclasses look their module up
_spec.loader.exec_module(cases)

Case, RUN = cases.Case, cases.RUN
teacher, tree, call = cases.teacher, cases.tree, cases.call

STUDENT = """\
  {detector: retinanet, backbone: test_efficientnet, pretrained: false, backbone_levels: [C3, C4],
   extra_levels: 0, neck_channels: 8, head_depth: 1}
"""
RECIPE = f"""\
name: wrong
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: images, annotations: train.json}}
  unlabeled: [{{format: folder, images: pool}}]
teachers: [{{detector: teacher}}]
student:
{STUDENT}
stages:
  - {{stage: label, images: unlabeled, threshold: 0.2}}
  - {{stage: train, images: {{labeled: 1, unlabeled: 1}}, steps: 1, batch_size: 2,
     optimizer: {{lr: 1e-3}}}}
baseline: false
"""
OPTIONS = {
    "backbone": "test_efficientnet",
    "image_size": 64,
    "backbone_levels": ("C3", "C4"),
    "extra_levels": 0,
    "neck_channels": 8,
    "head_depth": 1,
}


@pytest.fixture
def distilled(tree, teacher):
    """A sound tree whose recipe has a teacher, to be spoilt."""
    (tree / "pool").mkdir()
    cases.picture(7).save(tree / "pool" / "p.png")
    shutil.copytree(teacher, tree / "teacher")
    (tree / "recipe.yaml").write_text(RECIPE)
    return tree


def edited(*pairs):
    """Replace pieces of the recipe's text, each of which must be in it once."""

    def change(tree):
        text = (tree / "recipe.yaml").read_text()
        for old, new in pairs:
            before, found, after = text.partition(old)
            assert found, old
            text = before + new + after
        (tree / "recipe.yaml").write_text(text)

    return change


def added(text):
    """Put text at the end of the recipe."""
    return lambda tree: (tree / "recipe.yaml").write_text((tree / "recipe.yaml").read_text() + text)


def bundle(name, *classes, **options):
    """Write an untrained detector."""

    def change(tree):
        torch.manual_seed(1)
        shutil.rmtree(tree / name, ignore_errors=True)
        detector = build_detector("retinanet", classes=ClassList(classes), **{**OPTIONS, **options})
        logits = detector.head.classification_head.cls_logits
        torch.nn.init.normal_(logits.weight, std=3.0)  # finds something everywhere
        torch.nn.init.constant_(logits.bias, -1.0)
        save_detector(detector, tree / name)

    return change


def categories(*names):
    """Give all annotations these classes; the first is that of every box."""
    listed = [{"id": i, "name": name} for i, name in enumerate(names, start=1)]
    return cases.document(categories=listed)


def weights(content):
    """Write a file that `torch.save` makes, and take it as the teacher."""
    return cases.all_of(
        lambda tree: torch.save(content, tree / "t.pth"),
        edited(("{detector: teacher}", "{detector: t.pth}")),
    )


def set_to(*overrides):
    """Return the command with overrides; it is formatted later."""
    doubled = [text.replace("{", "{{").replace("}", "}}") for text in overrides]
    return (*RUN, *(part for text in doubled for part in ("--set", text)))


def begun(out):
    """Return what a run has left in its folder, but for the file by which it was held."""
    return [path.name for path in out.glob("*") if path.name != ".lock"]


class BlockedCode:
    """Pickled, it would make a folder when it is read, by a module that torch blocks."""

    def __reduce__(self):
        return os.mkdir, ("in/was-here",)


class UnknownCode:
    """Pickled, it would delete a folder when it is read, by a function that torch lacks."""

    def __reduce__(self):
        return shutil.rmtree, ("in/images",)


LABEL_STAGE = "  - {stage: label, images: unlabeled, threshold: 0.2}\n"
TEACHERS = "teachers: [{detector: teacher}]\n"
TEACHER = "{detector: teacher}"


def distilling(entry):
    """Give the train stage a distillation loss."""
    return edited(("steps: 1", f"steps: 1, distill: [{{{entry}}}]"))


SCHEMA_CASES = [
    Case(
        name="an unknown key",
        change=edited(("workers: 0", "worker: 0")),
        says=("data.worker: unknown key. Accepted: image_size,", "Did you mean 'workers'?"),
    ),
    Case(
        name="an unknown key deep inside",
        change=edited(("lr: 1e-3", "lr: 1e-3, weigth_decay: 0.1")),
        says=("stages[1].optimizer.weigth_decay: unknown key.", "mean 'weight_decay'?"),
    ),
    Case(
        name="71 a key that would run code elsewhere",
        change=added("_target_: os.mkdir\n"),
        says=("_target_: unknown key.",),
    ),
    Case(
        name="a number that is none",
        change=edited(("image_size: 64", "image_size: sixty")),
        says=("data.image_size: found 'sixty'. Accepted: a whole number.",),
    ),
    Case(
        name="a text in place of a list",
        change=edited(("[{detector: teacher}]", "teacher")),
        says=("teachers: found 'teacher'. Accepted: a list.",),
    ),
    Case(
        name="an unknown format",
        change=edited(("format: coco", "format: coko")),
        says=("data.labeled.format: found 'coko'.", "Did you mean 'coco'?"),
    ),
    Case(
        name="an unknown family",
        change=edited(("detector: retinanet", "detector: retinanett")),
        says=("student.detector: found 'retinanett'.", "Did you mean 'retinanet'?"),
    ),
    Case(
        name="an unknown option of the student and one of the wrong type",
        change=edited(("neck_channels: 8, head_depth: 1", "neck_chanels: 8, head_depth: deep")),
        says=(
            "2 faults:",
            "student.neck_chanels: unknown option.",
            "Did you mean 'neck_channels'?",
            "student.head_depth: found 'deep'. Accepted: a whole number.",
        ),
    ),
    Case(
        name="an unknown backbone",
        change=edited(("test_efficientnet", "test_eficientnet")),
        says=("student: Unknown timm backbone", "Did you mean 'test_efficientnet'?"),
    ),
    Case(
        name="an unknown stage",
        change=edited(("stage: label", "stage: labl")),
        says=("stages[0].stage: found 'labl'.", "Did you mean 'label'?"),
    ),
    Case(
        name="an unknown preset",
        change=added("preset: pseudo-labl\n"),
        says=("preset: found 'pseudo-labl'.", "Did you mean 'pseudo-label'?"),
    ),
    Case(
        name="pseudo targets without a label stage",
        change=edited((LABEL_STAGE, "")),
        says=("stages[0].targets.unlabeled: pseudo targets need an earlier label stage",),
    ),
    Case(
        name="a label stage without a teacher",
        change=edited((TEACHERS, "")),
        says=("stages[0]: a label stage needs a teacher. Add one to `teachers`.",),
    ),
    Case(
        name="a distillation loss without a teacher",
        change=cases.all_of(
            distilling("loss: feature-imitation"),
            edited((TEACHERS, ""), (LABEL_STAGE, ""), ("labeled: 1, unlabeled: 1", "labeled: 1")),
        ),
        says=("stages[0].distill: distillation needs a teacher. Add one to `teachers`.",),
    ),
    Case(
        name="an unknown distillation loss",
        change=distilling("loss: feature-imitaton"),
        says=("stages[1].distill[0]", "found 'feature-imitaton'.", "mean 'feature-imitation'?"),
    ),
    Case(
        name="an unknown option of a distillation loss",
        change=distilling("loss: feature-imitation, level: [P3]"),
        says=("stages[1].distill[0]", "level: unknown option.", "mean 'levels'?"),
    ),
    Case(
        name="a stream without images",
        change=edited(("  unlabeled: [{format: folder, images: pool}]\n", "")),
        says=("stages[0].images: the stream 'unlabeled' has no images. Give data.unlabeled.",),
    ),
    Case(
        name="--set with an unknown key",
        change=edited(),
        command=set_to("data.imge_size=32"),
        says=("data.imge_size: unknown key.", "Did you mean 'image_size'?"),
    ),
    Case(
        name="--set without a value",
        change=edited(),
        command=set_to("nonsense"),
        says=("--set 'nonsense': this is no override. Accepted: a path, =, and a value",),
    ),
    Case(
        name="--set of a stage that is not there",
        change=edited(),
        command=set_to("stages[7].steps=3"),
        says=("--set stages[7]: stages has 2 entries, counted from 0.",),
    ),
    Case(
        name="faults of --set beside those of the file",
        change=edited(("lr: 1e-3", "lr: fast")),
        command=set_to("data.workers=two", "stages[0]=*x", "teachers[0]={detector: gone}"),
        says=(
            "4 faults:",
            "--set stages[0]:1:1: the alias *x is refused. Write the value out.",
            "data.workers: found 'two'.",
            "stages[1].optimizer.lr: found 'fast'. Accepted: a finite number.",
            "teachers[0].detector: there is no folder",
        ),
    ),
]

FILE_CASES = [
    *[
        Case(name=f"{old} -> {new}", change=edited((old, new)), says=(text, "start at the folder"))
        for old, new, text in [
            ("images: pool", "images: pol", "data.unlabeled[0].images: there is no folder '"),
            ("train.json", "gone.json", "data.labeled.annotations: there is no file '"),
            ("train.json", "images", "data.labeled.annotations: '"),
            ("images: pool", "images: pool, list: gone", "data.unlabeled[0].list: there is no fi"),
            (TEACHER, "{detector: gone}", "teachers[0].detector: there is no folder '"),
            (TEACHER, "{detector: gone.pth}", "teachers[0].detector: there is no file '"),
            ("pretrained: false", "pretrained: gone.pth", "student.pretrained: there is no file '"),
        ]
    ],
    Case(
        name="init with a word that is none",
        change=edited(("steps: 1", "steps: 1, init: pretraind")),
        says=("stages[1].init: there is no file or folder", "Did you mean 'pretrained'?"),
    ),
    Case(
        name="48 a pipe in place of the annotations of a recipe",
        change=cases.pipe("train.json"),
        says=("data.labeled.annotations: '", "train.json' is no file."),
    ),
    Case(
        name="48 a pipe in place of annotations",
        change=cases.pipe("train.json"),
        command=cases.EVALUATE,
        says=("in/train.json: the file cannot be read (it is not a file but a folder, pipe",),
    ),
    Case(
        name="48 a pipe in place of a list",
        change=cases.pipe("listed"),
        command=(*cases.LABEL, "--list", "in/listed"),
        says=("in/listed: the list of images cannot be read (it is not a file but a folder, pipe",),
    ),
]

YAML_CASES = [
    *[
        Case(name=f"72 {kind}", change=added(text), says=(f"in/recipe.yaml:{says}",))
        for kind, text, says in [
            ("a double key", "name: twice\n", "17:1: the key 'name' is given already in line 1."),
            ("texts that grow", "a: &a [x, x]\nb: [*a, *a]\n", "18:5: the alias *a is refused."),
            ("a second document", "---\nname: two\n", "17:1: a second document begins here."),
            ("a tab", "seeds:\n\t- 1\n", "18:1: no YAML: found character '\\t'"),
        ]
    ],
    Case(
        name="71 a tag that would run code",
        change=edited(("name: wrong", "name: !!python/object/apply:os.mkdir [in/was-here]")),
        says=("in/recipe.yaml:1:7: the tag", "os.mkdir' is refused. Values are typed by"),
    ),
    Case(
        name="71 a variable of the environment",
        change=edited(("images: pool", "images: '${oc.env:HOME}'")),
        says=("data.unlabeled[0].images: there is no folder", "${oc.env:HOME}'"),
    ),
    Case(
        name="72 words and numbers that are none",
        change=edited(("lr: 1e-3", "lr: 1e-x"), ("baseline: false", "baseline: no")),
        says=(
            "stages[1].optimizer.lr: found '1e-x'. Accepted: a finite number.",
            "baseline: found 'no'. Accepted: true or false.",
        ),
    ),
    *[
        Case(name=f"{kind} as the recipe", change=change, says=("in/recipe.yaml", says))
        for kind, change, says in [
            ("Latin-1", cases.content("recipe.yaml", b"name: \xe9\n"), ":1: this is no UTF-8 text"),
            ("a list", cases.content("recipe.yaml", b"- a\n"), "this is no recipe. Accepted: a ma"),
            ("an empty file", cases.content("recipe.yaml", b""), "this is no recipe."),
            ("a folder", cases.folder("recipe.yaml"), "it is not a file but a folder, pipe or dev"),
            ("a pipe", cases.pipe("recipe.yaml"), "it is not a file but a folder, pipe or device"),
            (
                "nothing",
                lambda tree: (tree / "recipe.yaml").unlink(),
                "(No such file or directory)",
            ),
        ]
    ],
]

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
            "class_map maps 'no' to 'not', which is no class of the student.",
            "unknown_classes has 'cr', which is no class of the student.",
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
        change=weights({"a": BlockedCode()}),
        says=("teachers[0]: ", "in/t.pth: "),
    ),
    Case(
        name="68 a pickle with code",
        change=weights({"a": UnknownCode()}),
        says=("teachers[0]: ", "in/t.pth: contains code (shutil.rmtree), which is never run."),
    ),
    Case(
        name="weights of something else",
        change=weights({"a": torch.zeros(3)}),
        says=("teachers[0]: ", "in/t.pth: these are no weights of a known detector", "Accepted: "),
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
        says=("stages[1]: ", "in/start: these weights do not fit the student"),
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
            bundle("teacher", "car", "dog"),
            bundle("start", "no", "car"),
            edited(
                ("images: pool", "images: images"),
                ("threshold: 0.2", "threshold: {cra: 0.5}"),
                ("steps: 1", "steps: 1, init: start"),
            ),
            distilling("loss: feature-imitation, levels: [P7]"),
        ),
        says=(
            "5 faults:",
            "stages[0].images: the stream 'unlabeled' has no image.",
            "teachers[0]: the teacher has no class 'no'.",
            "stages[0]: threshold names the class 'cra'.",
            "stages[1]: ",
            "in/start: the weights are for the classes",
            "stages[1].distill[0]: loss 'feature-imitation' does not fit this pair: levels: P7",
        ),
    ),
    Case(
        name="a damaged teacher, class lists and weights to start from at once",
        change=cases.all_of(
            bundle("other", "dog", "no"),
            bundle("start", "no", "car"),
            cases.content("teacher/config.json", b"{"),
            edited(
                (TEACHER, "{detector: teacher}, {detector: other}"),
                (LABEL_STAGE, ""),
                ("labeled: 1, unlabeled: 1", "labeled: 1"),
                ("steps: 1", "steps: 1, init: start"),
            ),
        ),
        says=(
            "3 faults:",
            "teachers[0]: ",
            "config.json: not a bundle",
            "teachers[1]: the teacher has no class 'car'.",
            "stages[0]: ",
            "in/start: the weights are for the classes",
        ),
    ),
]


@pytest.mark.parametrize(
    "case",
    [*SCHEMA_CASES, *FILE_CASES, *YAML_CASES, *TEACHER_CASES],
    ids=lambda case: case.name,
)
def test_wrong_recipes_are_answered_by_name_and_nothing_is_begun(case, distilled, call):
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
        says=("\n  car  <-  CAR\n  no   <-  n_o\n",),
    ),
    Case(
        name="66 a synonym in class_map",
        change=cases.all_of(
            bundle("teacher", "motorcar", "no"),
            edited((TEACHER, "{detector: teacher, class_map: {motorcar: car}}")),
        ),
        says=("\n  car  <-  motorcar\n  no   <-  no\n",),
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
            bundle("teacher", *coco_columns().values()), categories("stop-sign", "Dining Table")
        ),
        says=(
            "Student's class <- class of ",
            "\n  stop-sign     <-  stop sign\n  Dining Table  <-  dining table\n",
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

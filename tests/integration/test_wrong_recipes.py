"""Wrong recipes: all faults are told at once, by their key and with a remedy; nothing is begun."""

import importlib.util
import sys
from pathlib import Path

import pytest

# The trees and the ways to spoil them, shared by several test files; tests are not a package.
_spec = importlib.util.spec_from_file_location(
    "wrong_recipe_cases", Path(__file__).with_name("wrong_recipe_cases.py")
)
recipes = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = recipes
_spec.loader.exec_module(recipes)

cases, Case, RUN = recipes.cases, recipes.Case, recipes.RUN
added, begun, distilling = recipes.added, recipes.begun, recipes.distilling
edited, set_to = recipes.edited, recipes.set_to
LABEL_STAGE, TEACHERS, TEACHER = recipes.LABEL_STAGE, recipes.TEACHERS, recipes.TEACHER
teacher, tree, call = recipes.teacher, recipes.tree, recipes.call
distilled = recipes.distilled

SCHEMA_CASES = [
    Case(
        name="an unknown key",
        change=edited(("workers: 0", "worker: 0")),
        says=("data.worker: unknown key. Accepted: cache, image_size,", "Did you mean 'workers'?"),
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
        name="options of a loss that looks at images beforehand",
        change=distilling("loss: global-knowledge, refresh: 0, instances: 0"),
        says=(
            "stages[1].distill[0]",
            "refresh: found 0.0. Accepted: a finite number above 0.",
            "instances: found 0. Accepted: 1 or more.",
        ),
    ),
    Case(
        name="a loss that looks at features beforehand beside a teacher of stored predictions",
        change=cases.all_of(
            distilling("loss: global-knowledge"),
            edited(("steps: 1,", "steps: 1, teacher_cache: {views: 1},")),
        ),
        says=(
            "teacher_cache keeps nothing of the teacher but its part 'dense', and the loss "
            "'global-knowledge' needs its features.neck.",
        ),
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
            "teachers[0].detector: there is no folder or .pth file",
        ),
    ),
]

START = "Relative paths start at the folder of the recipe."
FILE_CASES = [
    *[
        Case(name=f"{old} -> {new}", change=edited((old, new)), says=(text, advice))
        for old, new, text, advice in [
            (
                "images: pool",
                "images: pol",
                "data.unlabeled[0].images: there is no folder '",
                START,
            ),
            ("train.json", "gone.json", "data.labeled.annotations: there is no file '", START),
            (
                "train.json",
                "images",
                "data.labeled.annotations: '",
                "/images' is no file. Give the path of a",
            ),
            (
                "images: pool",
                "images: pool, list: gone",
                "data.unlabeled[0].list: there is no fi",
                START,
            ),
            (
                TEACHER,
                "{detector: gone}",
                "teachers[0].detector: there is no folder or .pth file '",
                START,
            ),
            (TEACHER, "{detector: gone.pth}", "teachers[0].detector: there is no file '", START),
            (
                "pretrained: false",
                "pretrained: gone.pth",
                "student.pretrained: there is no file '",
                START,
            ),
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


@pytest.mark.parametrize(
    "case",
    [*SCHEMA_CASES, *FILE_CASES, *YAML_CASES],
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

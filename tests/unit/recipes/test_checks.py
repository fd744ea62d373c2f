"""Sections of a recipe that must agree, and the files it names."""

import re

import pytest

from distildet.errors import ConfigError
from distildet.recipes.checks import missing_files

TRAIN = "{stage: train, images: {labeled: 1}, steps: 1, optimizer: {lr: 1}}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["stages=[{stage: label}]"], "stages: there is no train stage. At least one is needed."),
        (
            ["teachers=[]"],
            "stages[0]: a label stage needs a teacher. Add one to `teachers`.",
        ),
        (
            ["teachers=[]", "stages[1].distill=[{loss: feature-imitation}]"],
            "stages[1].distill: distillation needs a teacher. Add one to `teachers`.",
        ),
        (
            [
                "teachers=[{detector: teacher}, {detector: teacher}]",
                "stages[1].distill=[{loss: feature-imitation}]",
            ],
            "stages[1].distill[0].teacher: missing. There are 2 teachers, and a loss learns from "
            "one. Give its place in `teachers`: 0..1.",
        ),
        (
            [
                "teachers=[{detector: teacher}, {detector: teacher}]",
                "stages[1].distill=[{loss: feature-imitation, teacher: 2}]",
            ],
            "stages[1].distill[0].teacher: found 2. Accepted: 0..1 (the place in `teachers`).",
        ),
        (
            ["stages[1].distill=[{loss: feature-imitation, teacher: 1}]"],
            "stages[1].distill[0].teacher: found 1. Accepted: 0, or nothing (the place in `teach",
        ),
        (
            [
                "teachers=[{detector: teacher}, {detector: teacher}]",
                "stages[1].distill=[{loss: feature-imitation, teacher: 1},"
                "{loss: adaptive, teacher: 0}]",
            ],
            "stages[1].distill[1].teacher: found 0, but a loss before it has 1. The losses of a st",
        ),
        (
            ["stages[0].by=student"],
            "stages[0].by: found 'student', but no train stage is before this one, so that there "
            "is no student yet. Accepted: teachers, or a train stage before it.",
        ),
        (
            ["stages[0].by=all"],
            "stages[0].by: found 'all', but no train stage is before this one, so that there is",
        ),
        (
            ["data.labeled=null", "data.unlabeled=[{format: folder, images: images}]",
             "stages[0].calibration=isotonic", "stages[1].images={unlabeled: 1}"],
            "stages[0].calibration: found 'isotonic', which is fitted on labeled images, but there "
            "is no data.labeled. Accepted without: auto, none, rank.",
        ),
        (
            ["data.unlabeled=[]", "stages[0].images=unlabeled", "stages[1].images={labeled: 1}"],
            "stages[0].images: the stream 'unlabeled' has no images. Give data.unlabeled.",
        ),
        (
            ["data.labeled=null", "data.unlabeled=[]", "stages[1].images={all: 1}"],
            "stages[1].images.all: the stream 'all' has no images. Give data.labeled or data.unla",
        ),
        (
            ["data.labeled=null", "data.unlabeled[1]={format: folder, images: images}"],
            "stages[1].images.labeled: the stream 'labeled' has no images. Give data.labeled.",
        ),
        (
            ["data.unlabeled=[]"],
            "stages[1].images.unlabeled: the stream 'unlabeled' has no images. Give data.unl",
        ),
        (
            ["stages[0].images=labeled"],
            "stages[1].targets.unlabeled: pseudo targets need an earlier label stage with images: "
            "unlabeled or all.",
        ),
        (
            ["stages[0].images=unlabeled", "stages[1].targets.labeled=pseudo"],
            "stages[1].targets.labeled: pseudo targets need an earlier label stage with images: "
            "labeled or all.",
        ),
        (
            ["stages[0].images=unlabeled", "stages[1].images={all: 1}"],
            "stages[1].targets.all: pseudo targets need an earlier label stage with images: all.",
        ),
        (
            ["stages=[{stage: train, images: {all: 1}, steps: 1, optimizer: {lr: 1}},"
             "{stage: label}]"],
            "stages[0].targets.all: pseudo targets need an earlier label stage",
        ),
        (
            ["stages[1].init=previous"],
            "stages[1].init: found 'previous', but no train stage is before this one. Accepted: p",
        ),
        (
            ["data.labeled=null"],
            "data.unlabeled[1]: labeled-rest needs data.labeled, of which it is the hidden part.",
        ),
        (
            ["data.labeled.fraction=1"],
            "data.unlabeled[1]: labeled-rest is empty, since data.labeled.fraction is 1. Set",
        ),
        (
            ["data.unlabeled=[labeled-rest, labeled-rest]"],
            "data.unlabeled[0]: labeled-rest is given more than once. Once is enough.",
        ),
        (
            ["data.labeled=null", "baseline=true"],
            "baseline: found true, but there is no data.labeled, and the baseline is trained on",
        ),
    ],
)  # fmt: skip
def test_sections_that_disagree_are_named(load_distilled, overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_distilled(*overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages[0].init=teacher", "stages[0].init: found 'teacher', but there are no teachers."),
        ("baseline=true", "baseline: found true, but there are no teachers: the student is train"),
    ],
)
def test_what_needs_a_teacher_is_named(load_plain, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_plain(override)


@pytest.mark.parametrize(
    "overrides",
    [
        ["stages[0].images=unlabeled"],
        ["stages[1].targets.labeled=pseudo"],
        ["stages[1].images={all: 1}"],
        ["stages[1].init=teacher"],
        ["data.unlabeled=[labeled-rest]"],
        ["baseline=false"],
        ["teachers=[{detector: teacher}, {detector: teacher, trust: 2}]"],
        [
            "teachers=[{detector: teacher}, {detector: teacher}]",
            "stages[1].distill=[{loss: feature-imitation, teacher: 1}]",
        ],
        [f"stages=[{{stage: label}}, {TRAIN}, {{stage: label, by: all}}, {TRAIN}]"],
        [
            "teachers=[]",
            "baseline=true",
            f"stages=[{TRAIN}, {{stage: label, by: student, images: unlabeled}}, {TRAIN}]",
        ],
    ],
)
def test_sections_that_agree_pass(load_distilled, overrides):
    assert load_distilled(*overrides).name == "distilled"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.labeled.images=no", "data.labeled.images: there is no folder '{}/no'. Relative"),
        ("data.labeled.images=labels.json", "data.labeled.images: '{}/labels.json' is no folder."),
        ("data.labeled.annotations=images", "data.labeled.annotations: '{}/images' is no file."),
        (
            "data.labeled={format: voc, images: images, annotations: labels.json}",
            "data.labeled.annotations: '{}/labels.json' is no folder. Give the path of a folder.",
        ),
        (
            "data.validation={format: yolo, images: images, annotations: images}",
            "data.validation.annotations: '{}/images' is no file. Give the path of a file.",
        ),
        ("data.labeled.list=no.txt", "data.labeled.list: there is no file '{}/no.txt'."),
        ("data.validation.images=no", "data.validation.images: there is no folder '{}/no'."),
        ("data.unlabeled[0].images=no", "data.unlabeled[0].images: there is no folder"),
        (
            "teachers[0].detector=labels.json",
            "teachers[0].detector: '{}/labels.json' is no folder or .pth file. To teach with it,",
        ),
        ("student.pretrained=no.pth", "student.pretrained: there is no file '{}/no.pth'."),
        ("stages[1].init=no", "stages[1].init: there is no file or folder '{}/no'."),
        ("stages[1].init=pretraind", "or a word. Accepted: pretrained, previous, teacher. Did you"),
    ],
)
def test_files_that_are_not_there_are_named(load_distilled, project, override, message):
    with pytest.raises(ConfigError, match=re.escape(message.format(project))):
        load_distilled(override)


def test_a_path_that_no_file_can_have_is_not_there(load_distilled):
    with pytest.raises(ConfigError, match=r"data\.labeled\.images: there is no folder"):
        load_distilled(f"data.labeled.images={'a' * 5000}")


def test_files_are_only_checked_where_asked_for(load_distilled, project):
    recipe = load_distilled("teachers[0].detector=no", check_named=False)

    assert missing_files(recipe) == [
        f"teachers[0].detector: there is no folder or .pth file '{project}/no'. "
        "Relative paths start at the folder of the recipe."
    ]


def test_disagreements_are_reported_beside_faults_of_other_sections(load_distilled):
    with pytest.raises(ConfigError) as caught:
        load_distilled(
            "student.pretrained=no.pth", "name=", "stages[0].images=labeled", "stages[1].ema=2"
        )

    lines = str(caught.value).splitlines()
    assert lines[0].endswith("recipe.yaml: 3 faults:")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "name",
        "stages[1].ema",
        "student.pretrained",
    ]


def test_a_faulty_section_causes_no_faults_elsewhere(load_distilled):
    with pytest.raises(ConfigError) as caught:
        load_distilled("data.labeled.fraction=x", "teachers[0]=x", "stages[0].images=x")

    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "data.labeled.fraction",
        "teachers[0]",
        "stages[0].images",
    ]


def test_stages_that_are_no_list_leave_the_rest_to_be_checked(load_plain):
    with pytest.raises(ConfigError) as caught:
        load_plain("stages=train", "baseline=true")

    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "stages",
        "baseline",
    ]

"""Entries of `teachers`: what each kind takes, and how faults are told."""

import pytest

from distildet.errors import ConfigError
from distildet.recipes.declared import read_entry, teacher_of
from distildet.recipes.load import dump_recipe
from distildet.recipes.teacher_schema import (
    BundleTeacherConfig,
    OnnxTeacherConfig,
    ResultsTeacherConfig,
)

INPUT = "{layout: nchw, colour: rgb, range: 255, resize: letterbox-top-left, pad: 114}"
ONNX = f"""
detector: onnx
weights: model.onnx
classes: [car, no]
image_size: 416
input: {INPUT}
output: {{layout: grid}}
"""


@pytest.fixture
def entry(tmp_path):
    """Give a function that reads an entry with some keys changed."""

    def read(text=ONNX, *changes):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "teacher.yaml").write_text(text)
        return read_entry(tmp_path / "teacher.yaml")

    return read


def test_what_is_not_said_has_its_default(entry, tmp_path):
    config = entry()

    assert isinstance(config, OnnxTeacherConfig)
    assert config.weights == tmp_path / "model.onnx"
    assert config.classes == ("car", "no")
    assert config.image_size == 416
    assert (config.input.range, config.input.pad, config.input.dtype) == (255, 114, "float32")
    assert config.output.strides == (8, 16, 32)
    assert (config.output.score_floor, config.output.nms_iou) == (0.05, 0.5)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("detector: results\nfile: a.json", ResultsTeacherConfig),
        ("detector: runs/a/student", BundleTeacherConfig),
        # A folder of that name is told apart by its path.
        ("detector: ./onnx", BundleTeacherConfig),
    ],
)
def test_the_word_decides_the_kind(entry, text, kind):
    assert type(entry(text)) is kind


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[car, no]", "[car, car]", "classes: Class name 'car' occurs 2 times"),
        ("416", "[16, 416]", r"image_size\[0\]: found '16'. Accepted: greater than or equal to 32"),
        ("range: 255", "range: 1.0", r"input\.range: found '1\.0'\. Accepted: a whole number"),
        ("range: 255", "range: 2", r"input\.range: found '2'\. Accepted: 1 or 255"),
        ("rgb", "grb", r"input\.colour: found 'grb'\. Accepted: bgr, rgb\. Did you mean 'rgb'"),
        (", pad: 114", "", "input: pad is missing, which resize: letterbox-top-left needs"),
        ("pad: 114", "pad: grey", r"input\.pad: found 'grey'\. Accepted: zero"),
        ("pad: 114", "padd: 114", r"input\.padd: unknown key\. .*Did you mean 'pad'"),
        ("{layout: grid}", "{layout: gird}", r"output\.layout: found 'gird'.*Did you mean 'grid'"),
        ("{layout: grid}", "{}", r"output\.layout: missing\. Accepted: boxes, detections, grid"),
        (
            "{layout: grid}",
            "{layout: grid, strids: [8]}",
            r"output\.strids: unknown key\. Accepted: layout, max_detections, name, nms_iou, "
            "score_floor, strides. Did you mean 'strides'",
        ),
        ("{layout: grid}", "{layout: grid, strides: [0]}", r"output: strides is \[0\]"),
        ("{layout: grid}", "{layout: grid, nms_iou: on}", r"output\.nms_iou: found 'on'.*off"),
        ("{layout: grid}", "{layout: boxes, format: xyxy}", r"output\.units: missing"),
        ("weights: ", "wieghts: ", r"wieghts: unknown key\. .*Did you mean 'weights'"),
    ],
)
def test_faults_are_told_with_their_path(entry, old, new, says):
    with pytest.raises(ConfigError, match=rf"(?s)teacher\.yaml: .*{says}"):
        entry(ONNX, (old, new))


def test_all_faults_are_told_at_once(entry):
    with pytest.raises(ConfigError, match="3 faults:\n") as told:
        entry(ONNX, ("rgb", "grb"), ("image_size: 416\n", ""), ("grid}", "grid, name: [a]}"))

    assert "\n  input.colour: " in str(told.value)
    assert "\n  image_size: missing" in str(told.value)
    assert "\n  output.name: found ['a']. Accepted: a text." in str(told.value)


@pytest.mark.parametrize("text", ["", "a: b", "[a]", "onnx"])
def test_a_file_that_declares_nothing_is_told(entry, text):
    with pytest.raises(ConfigError, match=r"teacher\.yaml: this declares no detector\. Accepted"):
        entry(text)


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: the file cannot be read"):
        read_entry(tmp_path / "none.yaml")


def test_class_names_may_be_in_a_file_or_those_of_coco(entry, write_onnx, tmp_path):
    write_onnx({"out": [[0.0] * 7]}, shape=(1, 3, 32, 32))
    (tmp_path / "names.txt").write_text("truck\nno\n")
    changes = (("416", "32"), ("grid}", "grid, strides: [32]}"))

    named = teacher_of(entry(ONNX, *changes, ("[car, no]", "names.txt")))

    assert list(named.detector.spec.classes) == ["truck", "no"]
    with pytest.raises(ConfigError, match="`classes` has 80 names, for which 85 are due"):
        teacher_of(entry(ONNX, *changes, ("[car, no]", "coco")))


RECIPE = f"""
name: declared
data:
  image_size: 64
  unlabeled: [{{format: folder, images: images}}]
teachers:
  - {{detector: onnx, weights: model.onnx, classes: labels.json, image_size: [320, 640],
     input: {INPUT}, output: {{layout: detections, rows: out, format: xyxy, units: pixels}}}}
student: {{detector: retinanet}}
stages:
  - {{stage: label, images: unlabeled}}
  - {{stage: train, images: {{unlabeled: 1}}, steps: 1, optimizer: {{lr: 1e-3}}}}
"""


@pytest.fixture
def load(load_text, project):
    (project / "model.onnx").write_bytes(b"")
    return lambda *overrides, text=RECIPE: load_text(text, *overrides)


def test_a_recipe_is_written_with_every_default_and_reads_equal(load, load_text, project):
    recipe = load("teachers[0].input.colour=bgr", "teachers[0].output.nms_iou=0.7")

    assert recipe.teachers[0].input.colour == "bgr"
    assert recipe.teachers[0].output.nms_iou == 0.7
    assert load_text(dump_recipe(recipe)) == recipe
    assert load_text(dump_recipe(load())).teachers[0].output.nms_iou == "off"


def test_files_of_a_declaration_must_be_there(load):
    with pytest.raises(
        ConfigError, match=r"teachers\[0\]\.weights: there is no file '.*nix\.onnx'"
    ):
        load("teachers[0].weights=nix.onnx")
    with pytest.raises(ConfigError, match=r"teachers\[0\]\.classes: there is no file '.*nix\.txt'"):
        load("teachers[0].classes=nix.txt")
    results = "{detector: results, file: a.json, images: b.json}"
    with pytest.raises(ConfigError, match=r"(?s)\.file: there is no file.*\.images: there is no"):
        load(f"teachers[0]={results}")


def test_a_model_file_in_the_place_of_a_bundle_is_told_how_to_declare_it(load):
    with pytest.raises(ConfigError, match=r"\[0\]\.detector: .*model\.onnx' is no folder or \.pth"):
        load("teachers[0]={detector: model.onnx}")
    with pytest.raises(
        ConfigError, match=r"To teach with it, write \{detector: onnx, weights: FILE"
    ):
        load("teachers[0]={detector: model.onnx}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "stages[1].init=teacher",
            r"stages\[1\]\.init: found 'teacher', but of the teacher nothing is known but its boxe",
        ),
        (
            "stages[1].distill=[{loss: feature-imitation}, {loss: adaptive}]",
            r"stages\[1\]\.distill: found feature-imitation, adaptive, but of the teacher nothing "
            r"is known but its boxes.*preset: pseudo-label, or a label stage",
        ),
        ("stages[1].teacher_cache=true", r"stages\[1\]\.teacher_cache: there is nothing to store"),
    ],
)
def test_what_needs_more_than_boxes_is_refused_before_anything_is_loaded(load, change, says):
    with pytest.raises(ConfigError, match=says):
        load(change)


def test_a_stage_that_copies_the_first_of_several_teachers_is_told_to_change_their_order(
    load, project
):
    own = "teachers=[{detector: results, file: labels.json}, {detector: bundle}]"

    with pytest.raises(
        ConfigError, match=r"has no weights.*the first of `teachers` is copied: put"
    ):
        load(own, "stages[1].init=teacher")
    # Of one alone there is no order.
    with pytest.raises(ConfigError, match=r"Accepted: pretrained, previous, or a path\.(?! In)"):
        load("stages[1].init=teacher")

"""Reading recipe files and writing resolved ones."""

import importlib.resources
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distildet.errors import ConfigError
from distildet.recipes.load import dump_recipe, load_recipe, preset_names
from distildet.recipes.schema import LabelStage, Recipe

PLAIN_HEAD = "name: a\nstudent: {detector: fcos}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3:1: the key 'a' is given already in line 1."),
        ("", ": this is no recipe. Accepted: a mapping with keys like `data`."),
        ("- a\n", ": this is no recipe."),
    ],
)
def test_what_is_no_recipe_is_refused_with_its_place(load_text, text, message):
    with pytest.raises(ConfigError, match=re.escape(f"recipe.yaml{message}")):
        load_text(text)


@pytest.mark.parametrize("name", ["missing.yaml", "images"])
def test_a_file_that_cannot_be_read_is_named(project, name):
    with pytest.raises(ConfigError, match=rf"{name}: the file cannot be read \(.+\)\. Give"):
        load_recipe(project / name)


def test_a_byte_order_mark_is_passed_over(load_text, load_plain):
    load_plain()
    text = Path("project/recipe.yaml").read_text()

    assert load_text("\ufeff" + text).name == "plain"


def test_paths_start_at_the_folder_of_the_recipe(load_plain, project):
    labeled = load_plain("data.labeled.annotations=images/../labels.json").data.labeled

    assert labeled.images == project / "images"
    assert labeled.annotations == project / "labels.json"


def test_absolute_paths_stay(load_plain, tmp_path):
    images = load_plain(f"data.labeled.images={tmp_path}").data.labeled.images

    assert images == tmp_path


def test_a_recipe_given_by_a_relative_path_names_absolute_ones(load_plain, project):
    load_plain()

    recipe = load_recipe(Path("project/recipe.yaml"))

    assert recipe.data.labeled.images == project / "images"


def test_overrides_take_every_yaml_value(load_plain):
    recipe = load_plain(
        "seeds=[1, 2]", "stages[0].schedule={warmup: 0, decay: constant}", "name='x'"
    )

    assert recipe.seeds == (1, 2)
    assert recipe.stages[0].schedule.decay == "constant"
    assert recipe.name == "x"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "--set 'epochs': this is no override."),
        ("seeds=[1", "--set seeds:1:3: no YAML: expected ',' or ']'"),
        ("seeds={a: 1, a: 2}", "--set seeds:1:8: the key 'a' is given already in line 1."),
        ("stages[1].epochs=3", "--set stages[1]: stages has 1 entries, counted from 0."),
        ("name.first=3", "--set name.first: name is 'plain', not a mapping."),
    ],
)
def test_overrides_that_cannot_be_applied_are_named(load_plain, override, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_plain(override)


def test_every_fault_is_reported_at_once(load_plain):
    with pytest.raises(ConfigError) as caught:
        load_plain("epochs", "name.a=1", "preset=x", "seeds=[a]", "stages[0].lr=1")

    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "--set 'epochs'",
        "--set name.a",
        "preset",
        "seeds[0]",
    ]


def test_the_preset_labels_all_images_then_trains_in_two_phases(load_preset):
    label, first, second = load_preset().stages

    assert label == LabelStage(stage="label", images="all", threshold="auto")
    assert (first.images, first.targets) == ({"all": 1.0}, {"all": "pseudo"})
    assert (first.init, first.epochs, first.optimizer.lr) == ("pretrained", 12.0, 1.5e-3)
    assert second.images == {"labeled": 1.0, "unlabeled": 3.0}
    assert second.targets == {"labeled": "human", "unlabeled": "pseudo"}
    assert (second.init, second.epochs, second.optimizer.lr) == ("previous", 4.0, 1.5e-4)
    assert second.batch_norm == "frozen"
    assert (second.augmentation.zoom, second.augmentation.colour) == ((0.9, 1.1), 0.1)


def test_the_preset_tunes_on_the_labels_alone_without_other_images(load_preset):
    second = load_preset("data.unlabeled=[]").stages[2]

    assert (second.images, second.targets) == ({"labeled": 1.0}, {"labeled": "human"})


def test_the_preset_leaves_out_the_second_phase_without_labels(load_preset):
    recipe = load_preset("data.labeled=null")

    assert [stage.stage for stage in recipe.stages] == ["label", "train"]


def test_the_preset_adaptive_has_both_kinds_of_images_in_one_batch(load_preset):
    label, train = load_preset("preset=adaptive").stages

    assert label == LabelStage(
        stage="label", images="unlabeled", threshold="auto", fallback_threshold=0.5, keep_empty=0
    )
    assert train.counts() == {"labeled": 8, "unlabeled": 8}
    assert train.targets == {"labeled": "human", "unlabeled": "pseudo"}
    assert [(term.loss, term.weight, term.options) for term in train.distill] == [
        ("adaptive", 1.0, {})
    ]
    assert (train.init, train.epochs, train.optimizer.lr) == ("pretrained", 12.0, 1.5e-3)


@pytest.mark.parametrize(
    ("override", "stages", "targets"),
    [
        ("data.unlabeled=[]", ["train"], {"labeled": "human"}),
        ("data.labeled=null", ["label", "train"], {"unlabeled": "pseudo"}),
    ],
)
def test_the_preset_adaptive_needs_one_kind_of_images_alone(load_preset, override, stages, targets):
    both = load_preset("preset=adaptive").stages[-1]
    recipe = load_preset("preset=adaptive", override)

    assert [stage.stage for stage in recipe.stages] == stages
    # All else is equal.
    assert recipe.stages[-1] == both.model_copy(
        update={"images": dict.fromkeys(targets, 1.0), "targets": targets}
    )


@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        ([], {"labeled": 1.0, "unlabeled": 1.0}),
        (["data.unlabeled=[]"], {"labeled": 1.0}),
        (["data.labeled=null"], {"unlabeled": 1.0}),
    ],
)
def test_the_preset_global_knowledge_distills_in_a_second_training(load_preset, overrides, images):
    *labeling, first, second = load_preset("preset=global-knowledge", *overrides).stages

    assert [stage.stage for stage in labeling] == ["label"] * ("unlabeled" in images)
    assert first.images == images
    assert (first.init, first.distill, second.init) == ("pretrained", (), "previous")
    # All else is equal.
    assert second == first.model_copy(update={"init": "previous", "distill": second.distill})
    assert [(term.loss, term.options) for term in second.distill] == [("global-knowledge", {})]
    assert second.distill[0].schedule.decay == "linear"


@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        ([], {"labeled": 1.0, "unlabeled": 1.0}),
        (["data.unlabeled=[]"], {"labeled": 1.0}),
        (["data.labeled=null"], {"unlabeled": 1.0}),
    ],
)
def test_the_preset_hands_on_guidance_distills_from_the_start(load_preset, overrides, images):
    *labeling, train = load_preset("preset=hands-on-guidance", *overrides).stages

    assert [stage.stage for stage in labeling] == ["label"] * ("unlabeled" in images)
    assert (train.images, train.init) == (images, "pretrained")
    assert [(term.loss, term.weight) for term in train.distill] == [("hands-on-guidance", "auto")]


def test_overrides_reach_into_the_stages_of_the_preset(load_preset):
    recipe = load_preset("stages[2].optimizer.lr=1e-5", "stages[1].epochs=1")

    assert recipe.stages[2].optimizer.lr == 1e-5
    assert recipe.stages[1].epochs == 1


def test_a_preset_can_be_chosen_by_an_override(load_plain):
    with pytest.raises(
        ConfigError,
        match=r"preset: found 'pseudo'\. Accepted: adaptive, .*-guidance, pseudo-label\. Did you",
    ):
        load_plain("preset=pseudo")


@pytest.mark.parametrize("value", ["[]", "{}"])
def test_a_preset_that_is_no_text_is_a_fault(load_plain, value):
    with pytest.raises(
        ConfigError,
        match=r"preset: found .*\. Accepted: adaptive, .*-guidance, pseudo-label\.",
    ):
        load_plain(f"preset={value}")


def test_an_unknown_preset_is_no_second_fault_of_the_stages(load_text):
    with pytest.raises(
        ConfigError,
        match=r"yaml: preset: found 'x'\. Accepted: adaptive, .*-guidance, pseudo-label\.$",
    ):
        load_text(f"{PLAIN_HEAD}preset: x\ndata: {{image_size: 64}}\n")


def test_stages_of_the_preset_may_have_a_key_that_own_stages_may_not(load_plain):
    with pytest.raises(ConfigError, match=r"stages\[0\]\.when: unknown key"):
        load_plain("stages[0].when=labeled")


def test_every_shipped_preset_is_a_data_file_of_the_package():
    folder = importlib.resources.files("distildet.recipes") / "presets"

    assert preset_names() == ("adaptive", "global-knowledge", "hands-on-guidance", "pseudo-label")
    assert all((folder / f"{name}.yaml").is_file() for name in preset_names())


def test_the_resolved_recipe_has_every_default(load_plain, project):
    text = dump_recipe(load_plain())

    assert yaml.safe_load(text) == {
        "name": "plain",
        "seeds": [0],
        "data": {
            "image_size": 64,
            "workers": 2,
            "cache": "none",
            "labeled": {
                "format": "coco",
                "images": f"{project}/images",
                "annotations": f"{project}/labels.json",
                "strict": False,
                "fraction": 1.0,
                "seed": 0,
                "scene_gap": 0,
            },
            "unlabeled": [],
        },
        "teachers": [],
        "student": {
            "detector": "retinanet",
            "pretrained": False,
            "backbone": "mobilenetv2_050",
        },
        "stages": [
            {
                "stage": "train",
                "images": {"labeled": 1.0},
                "targets": {"labeled": "human"},
                "distill": [],
                "init": "pretrained",
                "epochs": 1.0,
                "batch_size": 16,
                "accumulate": 1,
                "optimizer": {
                    "name": "adamw",
                    "lr": 0.001,
                    "backbone_lr_factor": 1.0,
                    "weight_decay": 0.02,
                    "momentum": 0.9,
                },
                "schedule": {"warmup": 0.1, "decay": "cosine"},
                "ema": 0.998,
                "clip": 10.0,
                "batch_norm": "train",
                "augmentation": {"flip": 0.5, "zoom": [0.75, 1.6], "colour": 0.25},
                "evaluations": 4,
                "checkpoint_every": 200,
            }
        ],
        "baseline": False,
    }


def test_numbers_among_the_options_are_written_without_quotes(load_plain):
    student = "student={detector: a, p: ['96', 1e-4, true, '12:30', no, '']}"

    text = dump_recipe(load_plain(student, check_named=False))

    assert "  p: [96, 1e-4, true, '12:30', 'no', '']\n" in text


@pytest.mark.parametrize("fixture", ["load_plain", "load_distilled", "load_preset"])
def test_a_resolved_recipe_loads_again_from_anywhere(request, fixture, tmp_path):
    recipe = request.getfixturevalue(fixture)()
    (tmp_path / "resolved.yaml").write_text(dump_recipe(recipe))

    again = load_recipe(tmp_path / "resolved.yaml")

    assert again == recipe


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
OPTIONS = st.dictionaries(
    st.text(st.characters(codec="ascii", categories=["L"]), min_size=1).map("option_{}".format),
    st.recursive(
        TEXTS
        | st.sampled_from(["no", "null", "~", "12:30", "1e-4", "010", "-.5", "0x1F", "=", "<<"]),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
POSITIVE = st.floats(min_value=1e-300, max_value=1e300)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
    thresholds=st.just("auto") | st.floats(0.1, 1) | st.dictionaries(TEXTS, st.floats(0.1, 1)),
    options=OPTIONS,
    lr=POSITIVE,
    epochs=POSITIVE,
    folder=TEXTS.filter(str.strip),
)
def test_what_is_dumped_loads_as_an_equal_recipe(
    tmp_path, seeds, thresholds, options, lr, epochs, folder
):
    images = tmp_path / f"images{folder}"
    recipe = Recipe(
        name="any",
        seeds=seeds,
        data={"image_size": 64, "unlabeled": [{"format": "folder", "images": images}]},
        teachers=[{"detector": tmp_path}],
        student={"detector": "retinanet", **options},
        stages=[
            {"stage": "label", "threshold": thresholds},
            {"stage": "train", "images": {"all": 1}, "epochs": epochs, "optimizer": {"lr": lr}},
        ],
    )
    (tmp_path / "resolved.yaml").write_bytes(dump_recipe(recipe).encode())

    assert load_recipe(tmp_path / "resolved.yaml", check_named=False) == recipe


def test_faults_of_student_and_losses_are_told_with_those_of_the_text(load_text):
    with pytest.raises(ConfigError) as caught:
        load_text(
            "name: a\nseed: [0]\n"
            "student: {detector: retinanet, neck_chanels: 32, head_depth: deep}\n"
            "data: {image_size: 64, labeled: {format: coco, images: i, annotations: a}}\n"
            "stages:\n"
            "- {stage: train, steps: 1, optimizer: {lr: 1}, distill: [{loss: feature-imitate}]}\n"
        )

    for fault in (
        "seed: unknown key",
        "data.labeled.images: there is no folder",
        r"student.neck_chanels: unknown option.*Did you mean 'neck_channels'",
        "student.head_depth: found 'deep'",
        r"stages\[0\].distill\[0\].loss: found 'feature-imitate'.*mean 'feature-imitation'",
        r"stages\[0\].distill: .*teacher",
    ):
        assert re.search(fault, str(caught.value))


def test_an_unknown_family_is_answered_with_the_nearest(load_text):
    with pytest.raises(
        ConfigError, match=r"student.detector: found 'faster-rcnn'.*mean 'faster_rcnn'"
    ):
        load_text(
            "name: a\nstudent: {detector: faster-rcnn}\n"
            "data: {image_size: 64}\nstages: [{stage: train, steps: 1, optimizer: {lr: 1e-3}}]\n"
        )

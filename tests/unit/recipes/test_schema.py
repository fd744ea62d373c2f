"""What each key of a recipe accepts, and its default."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from distildet.errors import ConfigError
from distildet.recipes import schema
from distildet.recipes.schema import (
    AugmentationConfig,
    LabelStage,
    OptimizerConfig,
    TrainStage,
    without_teachers,
)

TRAIN = {"stage": "train", "epochs": 1, "optimizer": {"lr": 0.1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name=../x", r"name: found '\.\./x'\. Accepted: up to 100 letters"),
        ("name=.hidden", r"name: found '\.hidden'"),
        ("name=", r"name: found ''"),
        ("name=[a]", r"name: found \['a'\]\. Accepted: a text"),
        ("seeds=[]", r"seeds: found \[\]\. Accepted: at least one entry"),
        ("seeds=0", r"seeds: found '0'\. Accepted: a list"),
        ("seeds=[0, 1, 0]", r"seeds: found 0 more than once"),
        ("seeds=[-1]", r"seeds\[0\]: found '-1'\. Accepted: greater than or equal to 0"),
        ("seeds=[4294967296]", r"seeds\[0\]: found '4294967296'\. Accepted: less than or equal"),
        ("seeds=[0.0]", r"seeds\[0\]: found '0\.0'\. Accepted: a whole number"),
        ("data.image_size=3_2", r"data\.image_size: found '3_2'\. Accepted: a whole number"),
        ("data.image_size=31", r"data\.image_size: found '31'\. Accepted: greater than or equal"),
        ("data.image_size=4097", r"data\.image_size: found '4097'\. Accepted: less than or equal"),
        ("data.workers=-1", r"data\.workers: found '-1'"),
        ("data.labeled.fraction=0", r"data\.labeled\.fraction: found '0'\. Accepted: greater than"),
        ("data.labeled.fraction=1.1", r"data\.labeled\.fraction: found '1\.1'"),
        ("data.labeled.fraction=nan", r"fraction: found 'nan'\. Accepted: a finite number"),
        ("data.labeled.format=folder", r"format: found 'folder'\. Accepted: coco, voc, yolo\."),
        ("data.labeled.format=pascal", r"labeled\.format: found 'pascal'\. Accepted: coco, voc, y"),
        ("data.labeled.annotations=null", r"annotations: missing\. Format 'coco' needs a file"),
        (
            "data.unlabeled=[{format: voc, images: images}]",
            r"data\.unlabeled\[0\]\.annotations: missing\. Format 'voc' needs a folder of annot",
        ),
        ("data.labeled.images=", r"data\.labeled\.images: found ''\. Accepted: a path"),
        ("data.labeled.strict=yes", r"strict: found 'yes'\. Accepted: true or false"),
        ("data.labeled=here", r"data\.labeled: found 'here'\. Accepted: a mapping"),
        ("data.unlabeled=[rest]", r"unlabeled\[0\]: found 'rest'\. Accepted: a mapping with form"),
        (
            "data.unlabeled=[{format: folder, images: images, annotations: labels.json}]",
            r"data\.unlabeled\[0\]\.annotations: format 'folder' has no annotations\. Remove",
        ),
        (
            "data.unlabeled=[{format: folder, images: images, fraction: 1}]",
            r"data\.unlabeled\[0\]\.fraction: unknown key",
        ),
        ("epochs=3", r"epochs: unknown key\. .*teachers\. epochs is a key of a train stage\."),
        (
            "stages[0]={stage: label, teacher_cache: true}",
            r"teacher_cache: unknown key\. Accepted: .* teacher_cache is a key of a train stage\.",
        ),
        (
            "data.validation={format: coco, images: images, annotations: labels.json, seed: 1}",
            r"data\.validation\.seed: unknown key\. Accepted: annotations, format, images, list,",
        ),
        ("data.unlabeled=null", r"data\.unlabeled: found 'null'\. Accepted: a list"),
        ("student.detector=", r"student\.detector: found ''\. Accepted: at least one entry"),
        ("student.pretrained=[]", r"student\.pretrained: found \[\]\. Accepted: a path"),
        (
            "teachers=[{path: teacher}]",
            r"teachers\[0\]\.path: unknown key\. Accepted: class_map, classes, detector",
        ),
        ("stages=[]", r"stages: found \[\]\. Accepted: at least one entry"),
        ("stages[0].stage=trian", r"stages\[0\]\.stage: found 'trian'.* Did you mean 'train'\?"),
        ("stages=[{epochs: 1}]", r"stages\[0\]\.stage: missing\. Accepted: label, train"),
        ("stages[0]=train", r"stages\[0\]: found 'train'\. Accepted: a mapping"),
        ("baseline=on", r"baseline: found 'on'\. Accepted: true or false"),
        ("baselines=true", r"baselines: unknown key\. Accepted: .*Did you mean 'baseline'\?"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(load_plain, override, message):
    with pytest.raises(ConfigError, match=message):
        load_plain(override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("images={}", r"images: found \{\}\. Accepted: at least one entry"),
        ("images={labelled: 1}", r"images\.labelled: found 'labelled'.* mean 'labeled'\?"),
        ("images={labeled: 0}", r"images\.labeled: found '0'\. Accepted: greater than 0"),
        ("targets={labeled: humans}", r"targets\.labeled: found 'humans'.* mean 'human'\?"),
        ("targets={all: pseudo}", r"targets: found the stream 'all', which `images` does not"),
        ("steps=3", r"steps: found both epochs and steps\. Exactly one of them is accepted"),
        ("epochs=null", r"steps: found neither epochs nor steps\. Exactly one"),
        ("epochs=0", r"epochs: found '0'\. Accepted: greater than 0"),
        ("steps=1.5", r"steps: found '1\.5'\. Accepted: a whole number"),
        ("batch_size=0", r"batch_size: found '0'\. Accepted: greater than or equal to 1"),
        ("accumulate=3", r"accumulate: found 3\. Accepted: a divisor of batch_size 16"),
        ("accumulate=32", r"accumulate: found 32\. Accepted: a divisor of batch_size 16"),
        ("optimizer={}", r"optimizer\.lr: missing\. It is required"),
        ("optimizer.lr=x", r"optimizer\.lr: found 'x'\. Accepted: a finite number"),
        ("optimizer.lr=0", r"optimizer\.lr: found '0'\. Accepted: greater than 0"),
        ("optimizer.name=adam", r"optimizer\.name: found 'adam'.* Did you mean 'adamw'\?"),
        ("optimizer.lrr=1", r"optimizer\.lrr: unknown key\. Accepted: .* Did you mean 'lr'\?"),
        ("optimizer.momentum=1", r"optimizer\.momentum: found '1'\. Accepted: less than 1"),
        ("schedule.warmup=1", r"schedule\.warmup: found '1'\. Accepted: less than 1"),
        ("schedule.decay=step", r"schedule\.decay: found 'step'\. Accepted: constant, cosine"),
        ("ema=1", r"ema: found '1'\. Accepted: less than 1"),
        ("clip=-1", r"clip: found '-1'\. Accepted: greater than or equal to 0"),
        ("clip=[1]", r"clip: found \['1'\]\. Accepted: a finite number"),
        ("batch_norm=off", r"batch_norm: found 'off'\. Accepted: frozen, train"),
        ("augmentation=off", r"augmentation: found 'off'\. Accepted: none, or a mapping with"),
        ("augmentation.flip=2", r"augmentation\.flip: found '2'"),
        ("augmentation.blur=2", r"augmentation\.blur: unknown key\. Accepted: colour, flip, zoom"),
        ("augmentation.zoom=[1]", r"augmentation\.zoom\[1\]: missing"),
        ("augmentation.zoom=[1, 2, 3]", r"augmentation\.zoom: found .* at most 2 entries"),
        ("augmentation.zoom=[2, 1]", r"augmentation\.zoom: found \[2\.0, 1\.0\]\. Accepted: the s"),
        ("evaluations=0", r"evaluations: found '0'"),
        ("checkpoint_every=0", r"checkpoint_every: found '0'"),
        ("threshold=auto", r"threshold: unknown key"),
    ],
)
def test_a_fault_of_a_train_stage_is_named(load_plain, override, message):
    with pytest.raises(ConfigError, match=rf"recipe\.yaml: stages\[0\]\.{message}"):
        load_plain(f"stages[0].{override}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("images=train", r"images: found 'train'\. Accepted: all, labeled, unlabeled\."),
        ("threshold=high", r"threshold: found 'high'\. Accepted: auto, a number 0\.\.1, or a map"),
        ("threshold=[0.5]", r"threshold: found \['0\.5'\]\. Accepted: auto"),
        ("threshold=1.5", r"threshold: found '1\.5'\. Accepted: less than or equal to 1"),
        ("threshold={no: high}", r"threshold\.no: found 'high'\. Accepted: a finite number"),
        ("threshold={a b: 2}", r"threshold\['a b'\]: found '2'"),
        ("fallback_threshold=0.05", r"fallback_threshold: found 0\.05\. Accepted: ignore_floor"),
        ("batch_size=0", r"batch_size: found '0'"),
        ("weighting=sharp", r"weighting: found 'sharp'\. Accepted: hard, score, soft"),
        ("keep_empty=-0.1", r"keep_empty: found '-0\.1'"),
        ("epochs=1", r"epochs: unknown key"),
    ],
)
def test_a_fault_of_a_label_stage_is_named(load_distilled, override, message):
    with pytest.raises(ConfigError, match=rf"stages\[0\]\.{message}"):
        load_distilled(f"stages[0].{override}")


@pytest.mark.parametrize(
    ("threshold", "floor"),
    [("auto", 0.1), ("0.5", 0.1), ("0.05", 0.05), ("{a: 0.5, b: 0.02}", 0.02), ("{}", 0.1)],
)
def test_the_default_ignore_floor_lies_below_every_threshold(load_distilled, threshold, floor):
    recipe = load_distilled(f"stages[0].threshold={threshold}")

    assert recipe.stages[0].ignore_floor == floor


@pytest.mark.parametrize("threshold", ["0.05", "{a: 0.5, b: 0.05}"])
def test_a_given_ignore_floor_above_a_threshold_is_refused(load_distilled, threshold):
    with pytest.raises(ConfigError, match=r"ignore_floor: found 0\.1, above the threshold 0\.05\."):
        load_distilled(f"stages[0].threshold={threshold}", "stages[0].ignore_floor=0.1")


@pytest.mark.parametrize("stream", ["unlabeled", "all"])
def test_nobody_drew_boxes_in_unlabeled_images(load_distilled, stream):
    with pytest.raises(ConfigError, match=rf"targets: found human targets for '{stream}'\. Only"):
        load_distilled(
            f"stages[1].images={{{stream}: 1}}", f"stages[1].targets={{{stream}: human}}"
        )


def test_every_stream_has_an_image_in_each_batch(load_distilled):
    with pytest.raises(ConfigError, match=r"a batch of 4 has no image of the stream 'labeled'\."):
        load_distilled("stages[1].batch_size=4", "stages[1].images={labeled: 1, unlabeled: 9}")


def test_a_recipe_without_teachers_has_no_baseline(load_plain):
    recipe = load_plain()

    assert recipe.seeds == (0,)
    assert recipe.baseline is False
    assert recipe.data.unlabeled == ()


def test_a_recipe_with_teachers_and_labels_has_a_baseline(load_distilled):
    assert load_distilled().baseline is True


def test_without_labels_there_is_no_baseline(load_preset):
    assert load_preset("data.labeled=null").baseline is False


def test_defaults_of_a_train_stage_depend_on_its_streams_and_place(load_distilled):
    recipe = load_distilled(
        "stages=[{stage: label}, {stage: train, images: {labeled: 1, unlabeled: 1, all: 1}, "
        "targets: {labeled: pseudo}, steps: 2, optimizer: {lr: 1}},"
        "{stage: train, steps: 2, optimizer: {lr: 1}}]"
    )
    first, second = recipe.stages[1:]

    assert first.init == "pretrained"
    assert first.targets == {"labeled": "pseudo", "unlabeled": "pseudo", "all": "pseudo"}
    assert second.init == "previous"
    assert second.images == {"labeled": 1}
    assert second.targets == {"labeled": "human"}


def test_the_label_stage_has_the_defaults_of_the_paper(load_distilled):
    assert load_distilled().stages[0] == LabelStage(
        stage="label",
        images="all",
        threshold="auto",
        ignore_floor=0.1,
        fallback_threshold=0.4,
        batch_size=16,
        weighting="hard",
        keep_empty=0.1,
    )


def test_values_are_typed_by_their_key(load_plain):
    recipe = load_plain(
        "stages[0].optimizer={name: sgd, lr: 1e-4, momentum: .5}",
        "stages[0].augmentation=none",
        "student.pretrained=labels.json",
        "data.image_size=+64",
    )
    stage = recipe.stages[0]

    assert stage.optimizer == OptimizerConfig(name="sgd", lr=0.0001, momentum=0.5)
    assert stage.augmentation == "none"
    assert recipe.student.pretrained == Path.cwd() / "project" / "labels.json"
    assert recipe.data.image_size == 64


def test_class_names_of_thresholds_stay_texts(load_distilled):
    stage = load_distilled("stages[0].threshold={no: 0.5, null: 1e-1, 12:30: 1}").stages[0]

    assert stage.threshold == {"no": 0.5, "null": 0.1, "12:30": 1.0}


@pytest.mark.parametrize("word", ["null", "none", "~", "Null"])
def test_words_for_nothing_work_where_nothing_is_legal(load_plain, word):
    assert load_plain(f"data.validation={word}").data.validation is None


def test_options_of_the_student_stay_as_they_are(load_plain):
    changes = ("student.levels=[C3, no]", "student.width=1e-4", "student.a=null")

    recipe = load_plain(*changes, check_named=False)

    assert recipe.student.options == {
        "backbone": "mobilenetv2_050",
        "levels": ["C3", "no"],
        "width": "1e-4",
        "a": "null",
    }


@pytest.mark.parametrize("seeds", [[True], [1.0], ["x"]])
def test_python_values_are_checked_as_well(seeds):
    with pytest.raises(ValueError, match="a whole number"):
        schema.Recipe(
            name="a",
            seeds=seeds,
            data={"image_size": 64},
            student={"detector": "retinanet"},
            stages=[TRAIN],
        )


def test_a_recipe_can_be_built_of_python_values():
    recipe = schema.Recipe(
        name="a",
        data=schema.DataConfig(
            image_size=64, unlabeled=[schema.SourceConfig(format="folder", images=Path("images"))]
        ),
        student=schema.StudentConfig(detector="retinanet", pretrained=False),
        stages=[TrainStage(**TRAIN, augmentation=AugmentationConfig(flip=0))],
    )

    assert recipe.data.unlabeled[0].images == Path("images")
    assert recipe.stages[0].init == "pretrained"


@pytest.mark.parametrize(
    ("length", "sizes", "steps"),
    [
        ({"steps": 7}, {"labeled": 5, "unlabeled": 5}, 7),
        # Batches have 2 labeled and 6 unlabeled images; unlabeled is the larger stream: 60 / 6.
        ({"epochs": 1}, {"labeled": 10, "unlabeled": 60}, 10),
        ({"epochs": 2.5}, {"labeled": 10, "unlabeled": 60}, 25),
        # labeled is the larger stream: 9 / 2 = 4.5, rounded to even.
        ({"epochs": 1}, {"labeled": 9, "unlabeled": 8}, 4),
        ({"epochs": 0.01}, {"labeled": 9, "unlabeled": 8}, 1),
    ],
)
def test_epochs_are_passes_of_the_largest_stream(length, sizes, steps):
    stage = TrainStage(
        stage="train",
        images={"labeled": 1, "unlabeled": 3},
        batch_size=8,
        optimizer={"lr": 0.1},
        **length,
    )

    assert stage.counts() == {"labeled": 2, "unlabeled": 6}
    assert stage.steps_for(sizes) == steps


def test_the_baseline_trains_on_labels_alone_with_all_else_equal(load_preset):
    stages = load_preset("stages[1].batch_size=8", "stages[1].schedule.warmup=0.3").stages

    first, second = without_teachers(stages)

    assert first.counts() == {"labeled": 8}
    assert first.targets == {"labeled": "human"}
    labels_alone = {"images": {"labeled": 1.0}, "targets": {"labeled": "human"}}
    assert first == stages[1].model_copy(update=labels_alone)
    assert second == stages[2].model_copy(update=labels_alone)


def test_every_key_has_a_description():
    models = [
        model
        for model in vars(schema).values()
        if isinstance(model, type) and issubclass(model, BaseModel)
    ]

    undescribed = [
        f"{model.__name__}.{name}"
        for model in models
        for name, field in model.model_fields.items()
        if not field.description
    ]

    assert len(models) > 10
    assert undescribed == []


def test_recipes_do_not_change(load_plain):
    recipe = load_plain()

    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"

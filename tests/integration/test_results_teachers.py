"""Runs whose teachers are files of boxes that do not list every image."""

import json
import shutil

import pytest

from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes
from distildet.errors import DistildetError
from distildet.recipes.load import load_recipe
from distildet.recipes.runner import run_recipe

RECIPE = f"""
name: results
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: scenes, annotations: scenes/{ANNOTATIONS_FILE}}}
  unlabeled: [{{format: folder, images: pool}}]
  validation: {{format: coco, images: held, annotations: held/{ANNOTATIONS_FILE}}}
teachers: [{{detector: results, file: first.json}}]
student:
  detector: retinanet
  backbone: test_efficientnet
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 8
  head_depth: 1
baseline: false
stages:
  - {{stage: label, images: unlabeled, threshold: 0.5}}
  - {{stage: train, images: {{labeled: 1, unlabeled: 1}}, steps: 1, batch_size: 2,
     optimizer: {{lr: 1e-3}}, evaluations: 1}}
"""
TWO = "teachers=[{detector: results, file: first.json}, {detector: results, file: second.json}]"


class Listener:
    """Progress that keeps what it is told."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def advance(self, work, done, total, values=None):
        pass


@pytest.fixture
def work(tmp_path):
    """Scenes in three folders; images of one folder have the names of those of another."""
    for seed, (name, images) in enumerate({"scenes": 4, "held": 3, "pool": 5}.items()):
        make_scenes(tmp_path / name, images=images, size=64, seed=seed)
    return tmp_path


@pytest.fixture
def boxes(work):
    """Write a file with one box in each image of some folders."""

    def write(file, *folders, lower=(), listed="{}/{}"):
        truths = {
            folder: json.loads((work / folder / ANNOTATIONS_FILE).read_text()) for folder in folders
        }
        images = [
            (f, image["file_name"]) for f, truth in truths.items() for image in truth["images"]
        ]
        document = {
            "images": [
                {
                    "id": i,
                    "file_name": listed.format(folder, name),
                    "width": 64,
                    "height": 32 if folder in lower else 64,
                }
                for i, (folder, name) in enumerate(images)
            ],
            "annotations": [
                {"image_id": i, "category_id": 1, "bbox": [8, 8, 20, 20], "score": 0.9}
                for i in range(len(images))
            ],
            "categories": truths[folders[0]]["categories"],
        }
        (work / file).write_text(json.dumps(document))

    return write


@pytest.fixture
def run(work):
    """Run the recipe; return its result and what was told."""
    (work / "recipe.yaml").write_text(RECIPE)

    def call(*overrides):
        progress = Listener()
        result = run_recipe(
            load_recipe(work / "recipe.yaml", overrides),
            out=work / "run",
            device="cpu",
            progress=progress,
        )
        return result, progress.messages

    return call


def test_a_teacher_that_lists_no_validation_images_is_told_as_not_measured_first(work, boxes, run):
    boxes("first.json", "pool")

    result, messages = run()

    line = f"teachers[0]: {work / 'first.json'} does not list 3 of 3 validation images at their"
    assert result["models"]["teacher"]["metrics"] is None
    assert result["models"]["student"]["metrics"]["AP"] is not None
    assert [reason for reason in result["not_measured"] if reason.startswith(line)] != []
    told = [place for place, text in enumerate(messages) if f"Not measured: {line}" in text]
    labeled = [place for place, text in enumerate(messages) if text.startswith("Pseudo labels:")]
    assert told < labeled
    assert (work / "run" / "student" / "model.safetensors").is_file()


def test_a_teacher_of_validation_images_of_another_size_is_not_measured(boxes, run):
    boxes("first.json", "pool", "held", lower={"held"})

    result, _ = run()

    assert result["models"]["teacher"]["metrics"] is None


def test_of_two_teachers_the_one_that_is_measured_is_the_best(boxes, run):
    boxes("first.json", "pool")
    boxes("second.json", "pool", "held")

    result, _ = run(TWO)

    assert result["best_teacher"] == 1
    assert [model["metrics"] is None for model in result["teachers"]] == [True, False]


def test_a_name_of_two_images_is_refused_before_any_work_and_each_time(work, boxes, run):
    # The pool and the validation images have the same names.
    boxes("first.json", "pool", listed="{1}")

    for _ in range(2):
        with pytest.raises(
            DistildetError, match=r"teachers\[0\]: .*first\.json: its image '.*' may"
        ):
            run()
        assert not (work / "run" / "seed-0").exists()


def test_a_name_of_two_images_is_refused_in_a_run_that_goes_on(work, boxes, run):
    boxes("first.json", "pool", "held")
    run()
    shutil.rmtree(work / "run" / "teacher")
    (work / "run" / "result.json").unlink()
    shutil.rmtree(work / "run" / "student")
    boxes("first.json", "pool", listed="{1}")

    with pytest.raises(DistildetError, match=r"its image '.*' may be"):
        run()


def test_auto_calibration_goes_by_rank_where_a_file_lacks_the_labeled_images(work, boxes, run):
    boxes("first.json", "pool")
    boxes("second.json", "pool", "scenes")

    _, messages = run(TWO)

    [written] = (work / "run").glob("seed-*/*-label/calibration.json")
    assert json.loads(written.read_text())["method"] == "rank"
    assert [
        text
        for text in messages
        if text.startswith(
            "stages[0].calibration: scores are calibrated by rank, since teachers[0]: "
            f"{work / 'first.json'} does not list 4 of 4 labeled images at their size, such as "
        )
    ] != []


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_curves_that_cannot_be_fitted_are_refused_before_any_work(work, boxes, run, method):
    boxes("first.json", "pool", "scenes")
    boxes("second.json", "pool")

    with pytest.raises(
        DistildetError,
        match=rf"stages\[0\]\.calibration: found {method}, .*second\.json does not list 4 of 4 "
        "labeled images .* Accepted here: rank, none; or let that teacher process",
    ):
        run(TWO, f"stages[0].calibration={method}")

    assert not list((work / "run").glob("seed-*"))


def test_files_that_list_the_labeled_images_are_calibrated_on_them(work, boxes, run):
    boxes("first.json", "pool", "scenes")
    boxes("second.json", "pool", "scenes")

    run(TWO, "stages[0].threshold=0.01")

    [written] = (work / "run").glob("seed-*/*-label/calibration.json")
    assert json.loads(written.read_text())["method"] == "temperature"

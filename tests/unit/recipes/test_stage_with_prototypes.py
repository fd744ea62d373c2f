"""A stage whose loss chooses prototypes leaves pictures of them, whatever interrupts it."""

import json
import signal

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector, save_detector
from distildet.errors import InterruptedRunError
from distildet.recipes import chosen_objects, train_stage
from distildet.recipes.load import load_recipe
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_data import load_run_data
from distildet.recipes.schema import TrainStage
from distildet.recipes.train_stage import run_train_stage
from distildet.report.crops import GAP, SIDE
from distildet.training.interruption import interruptible

CLASSES = ClassList(("red", "blue", "missing"))
DETECTOR = {
    "backbone": "test_efficientnet",
    "backbone_levels": ["C3", "C4"],
    "extra_levels": 0,
    "neck_channels": 8,
    "head_depth": 1,
}
RECIPE = {
    "name": "prototypes",
    "data": {
        "image_size": 32,
        "workers": 0,
        "labeled": {"format": "coco", "images": "images", "annotations": "labels.json"},
    },
    "teachers": [{"detector": "teacher"}],
    "student": {"detector": "retinanet", "pretrained": False, **DETECTOR},
    "stages": [
        {
            "stage": "train",
            "steps": 4,
            "batch_size": 4,
            "checkpoint_every": 2,
            "optimizer": {"lr": 1e-3},
            "distill": [{"loss": "global-knowledge"}],
        }
    ],
}


class Silent:
    def message(self, text):
        pass

    def advance(self, work, done, total, values=None):
        pass


def save_scenes(folder):
    """Save ten images of 64 x 64, each with a red and a blue square of its own brightness."""
    (folder / "images").mkdir()
    boxes = [(1, (4, 4)), (2, (36, 32))]  # category, and corner of 24 x 24 pixels
    for image in range(10):
        scene = Image.new("RGB", (64, 64))
        for category, (x, y) in boxes:
            level = 150 + 10 * image
            colour = (level, 0, 0) if category == 1 else (0, 0, level)
            # With room for the margin of a crop, and for the rounding of its box.
            scene.paste(colour, (x - 4, y - 4, x + 28, y + 28))
        scene.save(folder / "images" / f"{image}.png")
    document = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in range(10)
        ],
        "annotations": [
            {"id": 2 * i + c, "image_id": i, "category_id": c, "bbox": [*corner, 24, 24]}
            for i in range(10)
            for c, corner in boxes
        ],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "labels.json").write_text(json.dumps(document))


@pytest.fixture
def context(tmp_path):
    torch.manual_seed(0)
    save_detector(
        build_detector("retinanet", classes=CLASSES, image_size=32, **DETECTOR),
        tmp_path / "teacher",
    )
    save_scenes(tmp_path)
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))
    recipe = load_recipe(tmp_path / "recipe.yaml", ())
    with interruptible() as interruption:
        yield RunContext(
            recipe=recipe,
            data=load_run_data(recipe.data),
            classes=CLASSES,
            out=tmp_path,
            device=torch.device("cpu"),
            interruption=interruption,
            progress=Silent(),
            teachers=(Teacher(tmp_path / "teacher"),),
        )


@pytest.fixture
def train(context, tmp_path):
    """Train the stage of a run in a folder, or with other losses, and return the stage's own."""

    def run(name, *entries):
        folder = tmp_path / name / "01-train"
        stage = context.recipe.stages[0]
        run_train_stage(
            context,
            with_losses(stage, entries) if entries else stage,
            folder,
            seed=0,
            steps=4,
            previous=None,
            labels=(),
        )
        return folder

    return run


def with_losses(stage, entries):
    """Return the stage of a recipe with other losses."""
    return TrainStage.model_validate({**RECIPE["stages"][0], "distill": list(entries)})


def pictures(stage):
    return {path.name: path.read_bytes() for path in (stage / "prototypes").iterdir()}


def test_the_pictures_show_as_many_prototypes_of_each_class_as_the_checkpoint_has(train):
    stage = train("run")

    tensors = load_file(stage / "checkpoints" / "step-000004" / "model.safetensors")
    chosen = torch.stack([tensors[f"terms.0.loss.banks.{level}.chosen"] for level in ("P3", "P4")])
    assert pictures(stage).keys() == {"red.png", "blue.png"}
    for label, channel in ((0, 0), (1, 2)):
        numbers = set(chosen[:, label].flatten().tolist()) - {-1}
        picture = Image.open(stage / "prototypes" / f"{CLASSES[label]}.png")
        shades = set()
        for place in range(len(numbers)):
            left, top = GAP + place % 10 * (SIDE + GAP), GAP + place // 10 * (SIDE + GAP)
            colours = picture.crop((left, top, left + SIDE, top + SIDE)).getcolors()
            [(_, colour)] = colours  # one object, and nothing beside it
            assert [value > 0 for value in colour] == [axis == channel for axis in range(3)]
            shades.add(colour[channel])
        # Each object has a shade of its own, and each number is one object.
        assert len(shades) == len(numbers) >= 3
        assert picture.width == min(10, len(numbers)) * (SIDE + GAP) + GAP


def test_a_stage_killed_before_it_was_done_has_the_pictures_of_one_left_in_peace(
    train, monkeypatch, tmp_path
):
    def kill(*_, **__):
        raise KeyboardInterrupt

    whole = pictures(train("whole"))
    for name in ("draw_chosen", "write_done"):  # before the pictures, and after
        with monkeypatch.context() as patched:
            patched.setattr(train_stage, name, kill)
            with pytest.raises(KeyboardInterrupt):
                train("killed")
    records = (tmp_path / "killed" / "01-train" / "metrics.jsonl").read_bytes()

    killed = train("killed")

    assert (killed / "DONE").exists()
    assert pictures(killed) == whole
    assert (killed / "metrics.jsonl").read_bytes() == records


def test_a_signal_between_two_pictures_ends_the_run_and_a_rerun_draws_them(
    train, context, monkeypatch, tmp_path
):
    whole = pictures(train("whole"))
    stage = tmp_path / "stopped" / "01-train"
    draw_grid = chosen_objects.draw_grid

    def signalled(crops):
        context.interruption.request(signal.SIGTERM, None)
        return draw_grid(crops)

    with monkeypatch.context() as patched:
        patched.setattr(chosen_objects, "draw_grid", signalled)
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            train("stopped")
    left = [(stage / name).exists() for name in ("student", "prototypes", "DONE")]
    context.interruption.signal = None

    assert left == [True, False, False]
    assert pictures(train("stopped")) == whole


GUIDANCE = {"loss": "hands-on-guidance", "images": 3}


def test_a_loss_that_looks_at_images_alone_takes_no_number_of_a_folder(train):
    stage = train("run", GUIDANCE, {"loss": "global-knowledge"}, GUIDANCE)

    assert [path.name for path in stage.glob("prototypes*")] == ["prototypes"]
    assert pictures(stage).keys() == {"red.png", "blue.png"}


def test_a_stage_that_looks_at_images_alone_leaves_no_pictures(train):
    stage = train("run", GUIDANCE)

    assert (stage / "DONE").exists()
    assert not list(stage.glob("prototypes*"))


def test_several_processes_leave_the_pictures_of_one(in_processes, train):
    one = pictures(train("one"))

    first, second = in_processes(lambda: pictures(train("two")))

    assert first == second == one

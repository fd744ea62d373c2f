"""What the scores of pseudo labels do to the student's own losses, from the label stage on."""

import json

import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector, save_detector
from distildet.recipes.label_stage import run_label_stage
from distildet.recipes.load import load_recipe
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_data import load_run_data
from distildet.recipes.train_stage import run_train_stage
from distildet.training.interruption import interruptible

DETECTOR = {
    "backbone": "test_efficientnet",
    "backbone_levels": ["C3", "C4"],
    "extra_levels": 0,
    "neck_channels": 8,
    "head_depth": 1,
}
RECIPE = {
    "name": "weighting",
    "data": {
        "image_size": 64,
        "workers": 0,
        "unlabeled": [{"format": "folder", "images": "images"}],
    },
    "teachers": [{"detector": "teacher"}],
    "student": {"detector": "retinanet", "pretrained": False, **DETECTOR},
    "stages": [
        {
            "stage": "label",
            "images": "unlabeled",
            "threshold": 0.0,
            "ignore_floor": 0.0,
            "fallback_threshold": 0.0,
        },
        {
            "stage": "train",
            "images": {"unlabeled": 1},
            "steps": 1,
            "batch_size": 2,
            "optimizer": {"lr": 1e-3},
        },
    ],
}


class Silent:
    def message(self, text):
        pass

    def advance(self, work, done, total, values=None):
        pass


@pytest.fixture
def train(tmp_path):
    """Label two images, train one step with a weighting, and return the losses of that step."""
    torch.manual_seed(0)
    classes = ClassList(("a", "b"))
    teacher = build_detector(
        "retinanet", classes=classes, image_size=64, max_detections=5, **DETECTOR
    )
    # Untrained scores lie below its floor.
    torch.nn.init.constant_(teacher.head.classification_head.cls_logits.bias, 0.0)
    save_detector(teacher, tmp_path / "teacher")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 64), (200, 0, 0)).save(tmp_path / "images" / "a.png")
    Image.new("RGB", (64, 48), (0, 200, 0)).save(tmp_path / "images" / "b.png")
    (tmp_path / "recipe.yaml").write_text(json.dumps(RECIPE))

    def run(weighting):
        overrides = [f"stages[0].weighting={weighting}"]
        recipe = load_recipe(tmp_path / "recipe.yaml", overrides)
        out = tmp_path / weighting
        with interruptible() as interruption:
            context = RunContext(
                recipe=recipe,
                data=load_run_data(recipe.data),
                classes=classes,
                out=out,
                device=torch.device("cpu"),
                interruption=interruption,
                progress=Silent(),
                teachers=(Teacher(tmp_path / "teacher"),),
            )
            labels, stage = recipe.stages
            run_label_stage(context, labels, out / "seed-0" / "01-label")
            run_train_stage(
                context,
                stage,
                out / "seed-0" / "02-train",
                seed=0,
                steps=1,
                previous=None,
                labels=[(out / "seed-0" / "01-label", labels)],
            )
        lines = (out / "seed-0" / "02-train" / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[0])

    return run


def test_a_soft_score_changes_the_classification_loss_and_a_weight_both(train):
    hard, score, soft = train("hard"), train("score"), train("soft")

    assert soft["box"] == hard["box"] > 0
    assert soft["classification"] != hard["classification"]
    assert score["box"] < hard["box"]

"""A run with five images of noise, whose teacher is stored, and a listener to its progress."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.data.loader import (
    Stream,
    TrainingSample,
    targets_from_annotations,
    training_batches,
)
from distildet.data.transforms import Augmentation
from distildet.detectors.bundle import save_detector
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.detectors.fcos import FCOS
from distildet.detectors.retinanet import RetinaNet
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.recipes.load import load_recipe
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_data import load_run_data
from distildet.recipes.teacher_cache import cached_teacher
from distildet.training.interruption import interruptible

CLASSES = ClassList(("car", "no"))
VARIED = Augmentation()
CPU = torch.device("cpu")
SMALL = {
    "backbone": "test_efficientnet",
    "image_size": 32,
    "backbone_levels": ("C3", "C4"),
    "extra_levels": 0,
    "neck_channels": 8,
    "head_depth": 1,
}

RECIPE = """
name: cached
data:
  image_size: 32
  workers: 0
  labeled: {{format: coco, images: images, annotations: labels.json}}
teachers: [{{detector: {teacher}}}]
student:
  detector: {family}
  backbone: test_efficientnet
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 8
  head_depth: 1
stages:
  - stage: train
    steps: 4
    batch_size: 3
    checkpoint_every: 2
    optimizer: {{lr: 1e-3}}
    distill: [{{loss: adaptive}}]
    teacher_cache: {{views: 2}}
"""


class Listener:
    """Progress that keeps what it is told."""

    def __init__(self):
        self.messages = []
        self.counts = []

    def message(self, text):
        self.messages.append(text)

    def advance(self, work, done, total, values=None):
        self.counts.append((work, done, total))


def bundle(folder, family):
    torch.manual_seed(0)
    detector = {"retinanet": RetinaNet, "fcos": FCOS}[family](CLASSES, head_norm="none", **SMALL)
    # Spread, as the logits of a trained head are.
    for layer in detector.head.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.normal_(layer.weight, std=0.5)
    save_detector(detector, folder)
    return Teacher(folder)


@pytest.fixture(scope="session")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {family: bundle(folder / family, family) for family in ("retinanet", "fcos")}


@pytest.fixture
def region_detector():
    options = {name: value for name, value in SMALL.items() if name != "head_depth"}
    return FasterRCNN(CLASSES, region_channels=8, **options)


@pytest.fixture
def family():
    return "retinanet"


@pytest.fixture
def images(tmp_path):
    """Five images of noise, two of them upright, each with one box."""
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    sizes = [(30, 40), (40, 30), (36, 36), (24, 48), (48, 24)]
    names = [f"{index}.png" for index in range(5)]
    for name, size in zip(names, sizes, strict=True):
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    document = {
        "images": [
            {"id": i, "file_name": name, "height": size[0], "width": size[1]}
            for i, (name, size) in enumerate(zip(names, sizes, strict=True))
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 15, 12], "iscrowd": 0}
            for i in range(5)
        ],
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "no"}],
    }
    (tmp_path / "labels.json").write_text(json.dumps(document))
    return tmp_path / "images"


@pytest.fixture
def listener():
    return Listener()


@pytest.fixture
def precision():
    return "fp32"


@pytest.fixture
def context(teachers, family, images, listener, tmp_path, precision):
    teacher = teachers[family]
    text = RECIPE.format(teacher=teacher.name, family=family)
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = load_recipe(tmp_path / "recipe.yaml", ())
    with interruptible() as interruption:
        yield RunContext(
            recipe=recipe,
            data=load_run_data(recipe.data),
            classes=CLASSES,
            out=tmp_path / "run",
            device=CPU,
            interruption=interruption,
            progress=listener,
            teachers=(teacher,),
            precision=precision,
        )


@pytest.fixture
def stage_folder(tmp_path):
    return tmp_path / "run" / "01-train"


@pytest.fixture
def streams(context):
    """All images with their boxes, three in a batch."""
    samples = tuple(
        TrainingSample(sample=s, targets=targets_from_annotations(s.annotations, 2))
        for s in context.data.labeled.samples
    )
    return [(Stream(name="labeled", samples=samples), 3)]


@pytest.fixture
def cached(context, streams, stage_folder):
    def make(views=2, top_k=0, seed=0, steps=4, augmentation=VARIED, streams=streams, **other):
        return cached_teacher(
            replace(context, **other),
            TeacherCacheConfig(views=views, top_k=top_k),
            streams,
            stage_folder,
            seed=seed,
            steps=steps,
            augmentation=augmentation,
            batch_size=2,
        )

    return make


@pytest.fixture
def batches(streams):
    """The first four steps: two passes and a bit more."""
    drawn = training_batches(
        streams,
        seed=0,
        image_size=32,
        augmentation=VARIED,
        start_step=0,
        stop_step=4,
        workers=0,
        num_views=2,
    )
    return list(drawn)


@pytest.fixture
def new_student():
    """Give a function that makes a student of a family, with the teacher's priors."""

    def make(family):
        torch.manual_seed(1)
        return family(CLASSES, **SMALL).eval()

    return make

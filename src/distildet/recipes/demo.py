"""The demo: scenes made on the spot and the two recipes that are run on them."""

from dataclasses import dataclass
from pathlib import Path

from distildet import artefacts
from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes

IMAGE_SIZE = 64
CLASSES = ("circle", "ellipse", "square", "triangle")
_SCENES = {"train": (1000, 0), "validation": (200, 1)}
"""Folder -> number of images and seed."""

_VALIDATION = f"{{format: coco, images: validation, annotations: validation/{ANNOTATIONS_FILE}}}"
_DETECTOR = """\
  detector: retinanet
  backbone: resnet10t
  pretrained: false
  head_depth: 1
  head_norm: group
  anchor_scale: 3
  anchor_octaves: 2
  anchor_ratios: [1]
  box_loss: giou
"""
_TRAINING = """\
    batch_size: 16
    optimizer: {name: adamw, lr: 3e-3}
    ema: 0.99
    augmentation: {zoom: [1, 1], colour: 0}
    evaluations: 2
"""

TEACHER_RECIPE = f"""\
# The teacher sees all labels. A recipe without teachers is plain training.
name: demo-teacher
data:
  image_size: {IMAGE_SIZE}
  workers: 1
  labeled: {{format: coco, images: train, annotations: train/{ANNOTATIONS_FILE}}}
  validation: {_VALIDATION}
student:
{_DETECTOR}\
  backbone_levels: [C2, C3, C4]
  extra_levels: 0
  neck_channels: 48
stages:
  - stage: train
    steps: 1200
{_TRAINING}"""

STUDENT_RECIPE = f"""\
# The student sees a tenth of the labels and the teacher's boxes on all images; the baseline
# beside it sees the tenth alone, for the same number of steps.
name: demo-student
data:
  image_size: {IMAGE_SIZE}
  workers: 1
  labeled:
    {{format: coco, images: train, annotations: train/{ANNOTATIONS_FILE}, fraction: 0.1}}
  unlabeled: [labeled-rest]
  validation: {_VALIDATION}
teachers:
  - {{detector: teacher/student}}
student:
{_DETECTOR}\
  backbone_levels: [C2, C3]
  extra_levels: 1
  neck_channels: 32
stages:
  - {{stage: label, images: all}}
  - stage: train
    images: {{all: 1}}
    targets: {{all: pseudo}}
    steps: 700
{_TRAINING}\
  - stage: train
    images: {{labeled: 1, unlabeled: 3}}
    steps: 60
    batch_size: 16
    optimizer: {{name: adamw, lr: 3e-4}}
    ema: 0.99
    batch_norm: frozen
    augmentation: {{zoom: [1, 1], colour: 0}}
    evaluations: 1
"""


@dataclass(frozen=True, kw_only=True)
class DemoRecipes:
    """Where the demo's recipes are.

    Args:
        teacher: Trains the teacher.
        student: Distills the student; its teacher is the run in `teacher/` beside the recipe.
    """

    teacher: Path
    student: Path


def write_demo(folder: Path) -> DemoRecipes:
    """Make the scenes, unless they are there, and write both recipes.

    Args:
        folder: Where everything of the demo goes.
    """
    for name, (images, seed) in _SCENES.items():
        if not (folder / name).exists():
            make_scenes(folder / name, images=images, seed=seed, size=IMAGE_SIZE, classes=CLASSES)
    recipes = DemoRecipes(teacher=folder / "teacher.yaml", student=folder / "student.yaml")
    artefacts.write_text(recipes.teacher, TEACHER_RECIPE)
    artefacts.write_text(recipes.student, STUDENT_RECIPE)
    return recipes

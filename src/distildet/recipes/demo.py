"""The demo: scenes made on the spot and the two recipes that are run on them."""

from dataclasses import dataclass
from pathlib import Path

from distildet import artefacts
from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes

TRAIN_IMAGES = 1000
VALIDATION_IMAGES = 200
_SCENES = {"train": (TRAIN_IMAGES, 0), "validation": (VALIDATION_IMAGES, 1)}

_TEACHER = f"""\
# The teacher sees all labels. A recipe without teachers is plain training.
name: demo-teacher
data:
  image_size: 96
  workers: 1
  labeled: {{format: coco, images: train, annotations: train/{ANNOTATIONS_FILE}}}
  validation: {{format: coco, images: validation, annotations: validation/{ANNOTATIONS_FILE}}}
student:
  detector: retinanet
  backbone: resnet18
  pretrained: false
  neck_channels: 64
  head_depth: 1
  head_norm: group
  extra_levels: 1
  anchor_scale: 2
  box_loss: giou
stages:
  - stage: train
    steps: 600
    batch_size: 16
    optimizer: {{name: adamw, lr: 1e-3}}
    evaluations: 2
"""

_STUDENT = f"""\
# The student sees a tenth of the labels and the teacher's boxes on all images; the baseline
# beside it sees the tenth alone, for the same number of steps.
name: demo-student
data:
  image_size: 96
  workers: 1
  labeled:
    {{format: coco, images: train, annotations: train/{ANNOTATIONS_FILE}, fraction: 0.1}}
  unlabeled: [labeled-rest]
  validation: {{format: coco, images: validation, annotations: validation/{ANNOTATIONS_FILE}}}
teachers:
  - {{detector: teacher/student}}
student:
  detector: retinanet
  backbone: mobilenetv2_050
  pretrained: false
  backbone_levels: [C3, C4]
  neck_channels: 48
  head_depth: 1
  head_norm: group
  anchor_scale: 2
  box_loss: giou
stages:
  - {{stage: label, images: all}}
  - stage: train
    images: {{all: 1}}
    targets: {{all: pseudo}}
    steps: 500
    batch_size: 16
    optimizer: {{name: adamw, lr: 1.5e-3}}
    evaluations: 2
  - stage: train
    images: {{labeled: 1}}
    steps: 60
    batch_size: 16
    optimizer: {{name: adamw, lr: 1.5e-4}}
    batch_norm: frozen
    augmentation: {{zoom: [0.9, 1.1], colour: 0.1}}
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
            make_scenes(folder / name, images=images, seed=seed, size=96)
    recipes = DemoRecipes(teacher=folder / "teacher.yaml", student=folder / "student.yaml")
    artefacts.write_text(recipes.teacher, _TEACHER)
    artefacts.write_text(recipes.student, _STUDENT)
    return recipes

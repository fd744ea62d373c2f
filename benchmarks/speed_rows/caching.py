"""The rows of the teacher cache: steps that read what a teacher said, against supervised steps."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import torch

from distildet.data.loader import (
    Stream,
    TrainingSample,
    targets_from_annotations,
    training_batches,
)
from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes
from distildet.data.transforms import Augmentation
from distildet.data.workers import Batch
from distildet.detectors.base import Detector
from distildet.detectors.bundle import save_detector
from distildet.detectors.retinanet import RetinaNet
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.recipes.distill_terms import build_terms
from distildet.recipes.load import load_recipe
from distildet.recipes.progress import Silence
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_data import load_run_data
from distildet.recipes.teacher_cache import CACHE, cached_teacher
from distildet.training.interruption import Interruption
from distildet.training.settings import TermSettings
from distildet.training.task import Task
from speed_rows.models import CLASSES, NUM_CLASSES
from speed_rows.settings import Settings
from speed_rows.timing import Clock, Goal, Row, Work
from speed_rows.training import STEPS, LoopStep, forgetting, train_settings

NUM_IMAGES, NUM_VIEWS = 32, 2
BATCH_SIZES = (16, 4)
"""The first, usual in recipes, has a goal; small batches pay more for the canvas of a cache."""
GOAL = Goal(sign="<=", value=1.05)
TERMS = (TermSettings(loss="adaptive", weight=1.0),)
RECIPE = """\
name: speed
data:
  image_size: {size}
  workers: 0
  labeled: {{format: coco, images: scenes, annotations: scenes/{annotations}}}
student: {{detector: retinanet, backbone: torchvision/resnet18, pretrained: false}}
stages: [{{stage: train, steps: 1, optimizer: {{lr: 1e-3}}}}]
"""


def caching(settings: Settings) -> list[Row]:
    """Measure steps with a cached teacher, and with the teacher itself, against plain ones."""
    context = _context(settings)
    rows = []
    for size in BATCH_SIZES:
        goal = GOAL if size == BATCH_SIZES[0] else None
        rows += _rows(settings, context, size, goal)
    return rows


def _rows(settings: Settings, context: RunContext, size: int, goal: Goal | None) -> list[Row]:
    """Return the rows of one batch size."""
    stream = _stream(context)
    augmentation = Augmentation()
    folder = settings.folder / f"batches-of-{size}"
    cached = cached_teacher(
        context,
        TeacherCacheConfig(views=NUM_VIEWS),
        [(stream, size)],
        folder,
        seed=0,
        steps=STEPS,
        augmentation=augmentation,
        batch_size=4,
    )

    def batches(num_views: int | None) -> Iterator[Batch]:
        return training_batches(
            [(stream, size)],
            seed=0,
            image_size=context.recipe.data.image_size,
            augmentation=augmentation,
            start_step=0,
            stop_step=STEPS,
            workers=0,
            num_views=num_views,
        )

    student = _detector(settings.neck_channels)
    live = copy.deepcopy(context.teachers[0].detector)
    steps = {
        "supervised step": _step(
            folder / "plain", settings, Task(copy.deepcopy(student)), batches(None)
        ),
        "step with the cached teacher": _step(
            folder / "cached", settings, _distilling(student, cached), batches(NUM_VIEWS)
        ),
        "step with the teacher": _step(
            folder / "live", settings, _distilling(student, live), batches(None)
        ),
    }
    works: dict[str, Work] = dict(steps)
    clock = Clock(settings.device, works, prepare=forgetting(*steps.values()))
    clock.run(settings.repeats(160 // size))
    shards = (folder / CACHE).rglob("*")
    num_bytes = sum(path.stat().st_size for path in shards if path.is_file())
    return [
        clock.row(
            "cached-teacher",
            f"retinanet, ResNet-18, adaptive, {NUM_CLASSES} classes, {size} images",
            [name],
            ["supervised step"],
            goal=own_goal,
            remarks={"MB a view": num_bytes / 1e6 / (NUM_IMAGES * NUM_VIEWS)} if own_goal else None,
        )
        for name, own_goal in (
            ("step with the cached teacher", goal),
            ("step with the teacher", None),
        )
    ]


def _context(settings: Settings) -> RunContext:
    """Return a run on drawn scenes with a teacher, which goes up to the filling of a cache."""
    size = max(settings.sizes[0])
    teacher = settings.folder / "teacher"
    save_detector(_detector(2 * settings.neck_channels, image_size=size), teacher)
    annotations = make_scenes(settings.folder / "scenes", images=NUM_IMAGES, seed=0, size=size)
    _name_more_classes(annotations)
    recipe_file = settings.folder / "recipe.yaml"
    recipe_file.write_text(RECIPE.format(size=size, annotations=ANNOTATIONS_FILE), encoding="utf-8")
    recipe = load_recipe(recipe_file)
    return RunContext(
        recipe=recipe,
        data=load_run_data(recipe.data),
        classes=CLASSES,
        out=settings.folder,
        device=settings.device,
        interruption=Interruption(),
        progress=Silence(),
        teachers=(Teacher(teacher).loaded(),),
    )


def _name_more_classes(annotations: Path) -> None:
    """Give drawn scenes as many classes as detectors have: the size of a cache grows with them."""
    document = json.loads(annotations.read_text(encoding="utf-8"))
    document["categories"] = [{"id": label + 1, "name": n} for label, n in enumerate(CLASSES)]
    annotations.write_text(json.dumps(document), encoding="utf-8")


def _detector(neck_channels: int, *, image_size: int = 224) -> Detector:
    torch.manual_seed(0)
    return RetinaNet(
        CLASSES,
        backbone="torchvision/resnet18",
        neck_channels=neck_channels,
        image_size=image_size,
    )


def _stream(context: RunContext) -> Stream:
    samples = tuple(
        TrainingSample(
            sample=sample, targets=targets_from_annotations(sample.annotations, NUM_CLASSES)
        )
        for sample in context.data.dataset("labeled").samples
        if sample.annotations is not None
    )
    return Stream(name="labeled", samples=samples)


def _distilling(student: Detector, teacher: Detector) -> Task:
    copied = copy.deepcopy(student)
    return Task(
        copied, teacher, build_terms(train_settings(terms=TERMS), copied.spec, teacher.spec)
    )


def _step(folder: Path, settings: Settings, task: Task, source: Iterator[Batch]) -> LoopStep:
    return LoopStep(task, source, folder / "stage", settings.device)

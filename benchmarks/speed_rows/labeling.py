"""The rows of labeling: from image files to a store, against a stock model's forward passes."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from distildet.data.dataset import Sample
from distildet.data.decode import decode_image
from distildet.data.folder import read_folder
from distildet.data.loader import collate
from distildet.data.synthetic import make_scenes
from distildet.data.transforms import fit_view
from distildet.detectors.bundle import save_detector
from distildet.recipes.label_stage import label_with
from distildet.recipes.progress import Silence
from distildet.recipes.run_context import Teacher
from distildet.training.interruption import Interruption
from speed_rows.models import CLASSES, make_pair, spread_scores
from speed_rows.settings import Settings
from speed_rows.timing import Clock, Goal, Row, Work

IMAGE_SIZE, BATCH_SIZE = 224, 8
# Few enough to take turns often, many enough that starting the workers counts little.
NUM_IMAGES = 96
WORKERS = (0, 1, 2)
GOAL = Goal(sign=">=", value=0.9)


def labeling(settings: Settings) -> list[Row]:
    """Measure labeling, with decoding and writing, against forward passes on decoded images."""
    samples = _samples(settings)
    pair = make_pair(
        "retinanet",
        backbone="resnet18",
        neck_channels=2 * settings.neck_channels,
        image_size=IMAGE_SIZE,
    )
    views = [fit_view(decode_image(sample.path), IMAGE_SIZE) for sample in samples]
    spread_scores(pair, collate(views[:BATCH_SIZE], [sample.id for sample in samples[:BATCH_SIZE]]))
    save_detector(pair.ours, settings.folder / "teacher")
    teacher = Teacher(settings.folder / "teacher").loaded()
    store = settings.folder / "labels" / "store"
    images = [view.pixels.to(settings.device) for view in views]
    stock = StockPass(pair.stock.to(settings.device), images)
    works: dict[str, Work] = {
        _name(workers): _labeling_pass(teacher, samples, store, settings.device, workers)
        for workers in WORKERS
    }
    clock = Clock(
        settings.device,
        {"stock forward": stock, **works},
        prepare=lambda: shutil.rmtree(store.parent, ignore_errors=True),
    ).run(settings.repeats(5), warm_ups=1)
    best = min(works, key=clock.median)
    source = "drawn scenes" if settings.images is None else "photographs"
    return [
        clock.row(
            "labeling",
            f"retinanet, ResNet-18, {IMAGE_SIZE} px, {len(samples)} {source}",
            ["stock forward"],
            [name],
            # The user may choose the number of workers: the best one has the goal.
            goal=GOAL if name == best else None,
            has_cpu_time=False,
            remarks={
                "boxes an image": stock.num_boxes / len(samples),
                "images a second": len(samples) / clock.median(name),
            },
        )
        for name in works
    ]


def _name(workers: int) -> str:
    return f"labeling, {workers} worker{'' if workers == 1 else 's'}"


def _samples(settings: Settings) -> Sequence[Sample]:
    """Return the images to label, evenly spread over those that there are."""
    count = BATCH_SIZE if settings.is_quick else NUM_IMAGES
    folder = settings.images
    if folder is None:
        folder = settings.folder / "scenes"
        make_scenes(folder, images=count, seed=0, size=IMAGE_SIZE)
    samples = read_folder(folder).samples
    return samples[:: max(1, len(samples) // count)][:count]


class StockPass:
    """A pass of a stock model over images that are decoded and resized beforehand.

    Args:
        model: Of torchvision.
        images: [3 h w] each, on the device of the model.
    """

    def __init__(self, model: nn.Module, images: Sequence[Tensor]) -> None:
        self.model = model.eval()
        self.batches = [
            list(images[start : start + BATCH_SIZE]) for start in range(0, len(images), BATCH_SIZE)
        ]
        self.num_boxes = 0

    @torch.inference_mode()
    def __call__(self) -> None:
        """Detect objects in all images, and bring what is found to the CPU."""
        self.num_boxes = 0
        for batch in self.batches:
            for found in self.model(batch):
                self.num_boxes += len({name: value.cpu() for name, value in found.items()}["boxes"])


def _labeling_pass(
    teacher: Teacher, samples: Sequence[Sample], store: Path, device: torch.device, workers: int
) -> Work:
    def label() -> None:
        label_with(
            teacher,
            samples,
            CLASSES,
            store,
            batch_size=BATCH_SIZE,
            workers=workers,
            device=device,
            interruption=Interruption(),
            progress=Silence(),
            work="speed",
        )

    return label

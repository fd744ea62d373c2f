"""Scenes to evaluate, built by hand or at random."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from distildet.classes import ClassList
from distildet.data.dataset import Annotations, Dataset, Sample
from distildet.structures import Detections

Scene = tuple[Dataset, dict[str, Detections]]


def _annotations(boxes=(), labels=(), crowd=None, areas=None) -> Annotations:
    drawn = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    sides = drawn[:, 2:] - drawn[:, :2]
    return Annotations(
        boxes=drawn,
        labels=np.array(labels, dtype=np.int64),
        areas=sides.prod(axis=1) if areas is None else np.array(areas, dtype=np.float64),
        crowd=np.zeros(len(drawn), bool) if crowd is None else np.array(crowd, dtype=bool),
    )


def _dataset(annotations_by_id, classes=("cat", "dog")) -> Dataset:
    samples = tuple(
        Sample(id=image, path=Path(image), annotations=drawn)
        for image, drawn in annotations_by_id.items()
    )
    return Dataset(samples=samples, classes=ClassList(tuple(classes)) if classes else None)


def _detections(boxes=(), labels=(), scores=()) -> Detections:
    return Detections(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
    )


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    corners = rng.uniform(0, 200, (count, 2))
    # Sides from 5 to 300 fill all three size buckets of COCO (limits 32 and 96).
    return np.concatenate([corners, corners + 5 * 60 ** rng.uniform(0, 1, (count, 2))], axis=1)


def _found_near(rng: np.random.Generator, drawn: Annotations, noise: float, false: int):
    sides = np.tile(drawn.boxes[:, 2:] - drawn.boxes[:, :2], 2)
    near = drawn.boxes + rng.normal(0, noise, drawn.boxes.shape) * sides
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    boxes = np.concatenate([near, near[: len(near) // 2] + 1, _random_boxes(rng, false)])
    labels = np.concatenate(
        [drawn.labels, drawn.labels[: len(near) // 2], rng.integers(0, 3, false)]
    )
    # One decimal makes many ties.
    scores = rng.uniform(0.05, 1, len(boxes)).round(1)
    order = np.argsort(-scores, kind="stable")
    return _detections(boxes[order], labels[order], scores[order])


def _random_scene(seed: int, images: int = 12, noise: float = 0.1, false: int = 4) -> Scene:
    """Draw images with 3 of 4 classes, crowds, stated areas; some have no objects."""
    rng = np.random.default_rng(seed)
    drawn_by_id = {}
    for index in range(images):
        count = int(rng.integers(0, 9)) if index else 0
        boxes = _random_boxes(rng, count)
        sides = boxes[:, 2:] - boxes[:, :2]
        drawn_by_id[f"{index}.jpg"] = _annotations(
            boxes,
            rng.integers(0, 3, count),
            rng.uniform(0, 1, count) < 0.15,
            sides.prod(axis=1) * rng.uniform(0.3, 1, count),
        )
    return (
        _dataset(drawn_by_id, ("a", "b", "c", "nothing of it")),
        {image: _found_near(rng, drawn, noise, false) for image, drawn in drawn_by_id.items()},
    )


@pytest.fixture
def annotations() -> Callable[..., Annotations]:
    return _annotations


@pytest.fixture
def dataset_of() -> Callable[..., Dataset]:
    return _dataset


@pytest.fixture
def detections_of() -> Callable[..., Detections]:
    return _detections


@pytest.fixture
def random_scene() -> Callable[..., Scene]:
    return _random_scene


@pytest.fixture
def find_objects() -> Callable[..., dict[str, Detections]]:
    def find(dataset: Dataset, seed: int, noise: float) -> dict[str, Detections]:
        rng = np.random.default_rng(seed)
        return {s.id: _found_near(rng, s.annotations, noise, 3) for s in dataset.samples}

    return find


def _pycocotools_evaluator(dataset, detections, images=None, *, quick=False):
    """Evaluate with pycocotools; `images` may name an image several times (bootstrap)."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    samples = {s.id: s for s in dataset.samples if s.annotations is not None}
    drawn_rows, found_rows = [], []
    chosen = list(samples) if images is None else images
    for image_id, image in enumerate(chosen, start=1):
        drawn, found = samples[image].annotations, detections[image]
        for box, label, area, crowd in zip(
            drawn.boxes, drawn.labels, drawn.areas, drawn.crowd, strict=True
        ):
            drawn_rows.append(
                {
                    "id": len(drawn_rows) + 1,
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
        boxes = found.boxes.numpy().astype(np.float64)
        for box, label, score in zip(boxes, found.labels, found.scores, strict=True):
            found_rows.append(
                {
                    "image_id": image_id,
                    "category_id": int(label) + 1,
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "score": float(score),
                }
            )
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image_id} for image_id in range(1, len(chosen) + 1)],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(dataset.classes)],
        "annotations": drawn_rows,
    }
    truth.createIndex()
    evaluator = COCOeval(truth, truth.loadRes(found_rows), "bbox")
    if quick:
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.params.maxDets = [100]
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator


@pytest.fixture
def pycocotools_evaluator():
    return _pycocotools_evaluator

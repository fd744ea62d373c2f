"""The row of evaluation: our metrics against pycocotools on the same numbers."""

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hotcoco import COCOeval as HotCocoEval
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from distildet.classes import ClassList
from distildet.data.dataset import Annotations, Dataset, Sample
from distildet.evaluation.coco_inputs import coco_inputs
from distildet.evaluation.coco_metrics import evaluate_detections
from distildet.structures import Detections
from speed_rows.settings import Settings
from speed_rows.timing import Clock, Goal, Row

NUM_CLASSES, IMAGE_SIDE = 80, 640
OBJECTS_PER_IMAGE, DETECTIONS_PER_IMAGE = 7, 30  # as in COCO's validation set; of a detector
GOAL = Goal(sign=">=", value=20.0)
MOST_DIFFERENCE = 1e-9
Scene = tuple[Dataset, dict[str, Detections]]
_METRICS = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def evaluation(settings: Settings) -> list[Row]:
    """Measure our evaluation against pycocotools.

    Raises:
        SystemExit: The two do not agree on one of the 12 numbers.
    """
    num_images = 60 if settings.is_quick else 5000
    dataset, detections = draw_scene(num_images)
    document, results = as_lists(dataset, detections)
    difference = _largest_difference(
        twelve_numbers(dataset, detections), evaluate_lists(document, results)
    )
    if not difference <= MOST_DIFFERENCE:
        raise SystemExit(f"evaluation: a COCO number differs from pycocotools by {difference}.")
    works = {
        "pycocotools": lambda: evaluate_lists(document, results),
        "our evaluation": lambda: evaluate_detections(dataset, detections),
    }
    clock = Clock(settings.device, works).run(settings.repeats(3), warm_ups=0)
    return [
        clock.row(
            "evaluation",
            f"{num_images:,} images, {len(results):,} detections, {NUM_CLASSES} classes",
            ["pycocotools"],
            ["our evaluation"],
            goal=GOAL,
            remarks={"largest difference of the 12 numbers": difference},
        )
    ]


def draw_scene(num_images: int, *, seed: int = 0) -> Scene:
    """Draw objects of all sizes, and detections of which some lie near objects.

    Args:
        num_images: Of the dataset.
        seed: Of all that is random.
    """
    generator = np.random.default_rng(seed)
    samples, detections = [], {}
    for index in range(num_images):
        name = f"{index:06d}.jpg"
        drawn = _draw_objects(generator, int(generator.poisson(OBJECTS_PER_IMAGE)))
        samples.append(Sample(id=name, path=Path(name), annotations=drawn))
        detections[name] = _draw_detections(generator, drawn)
    classes = ClassList(tuple(f"class {label}" for label in range(NUM_CLASSES)))
    return Dataset(samples=tuple(samples), classes=classes), detections


def _draw_objects(generator: np.random.Generator, count: int) -> Annotations:
    boxes = _draw_boxes(generator, count)
    sides = boxes[:, 2:] - boxes[:, :2]
    return Annotations(
        boxes=boxes,
        labels=_draw_labels(generator, count),
        areas=sides.prod(axis=1) * generator.uniform(0.4, 1, count),
        crowd=generator.uniform(size=count) < 0.01,
    )


def _draw_boxes(generator: np.random.Generator, count: int) -> NDArray[np.float64]:
    sides = 8 * 60 ** generator.uniform(size=(count, 2))  # 8 to 480 pixels
    corners = generator.uniform(size=(count, 2)) * (IMAGE_SIDE - sides)
    return np.concatenate([corners, corners + sides], axis=1)


def _draw_labels(generator: np.random.Generator, count: int) -> NDArray[np.int64]:
    # Few classes are common and most are rare.
    return (NUM_CLASSES * generator.uniform(size=count) ** 3).astype(np.int64)


def _draw_detections(generator: np.random.Generator, drawn: Annotations) -> Detections:
    """Return three guesses at each object, as many as there is place for, and false ones."""
    place = generator.permutation(np.tile(np.arange(len(drawn.labels)), 3))[:DETECTIONS_PER_IMAGE]
    sides = np.tile(drawn.boxes[place, 2:] - drawn.boxes[place, :2], 2)
    near = drawn.boxes[place] + generator.normal(0, 0.08, (len(place), 4)) * sides
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    num_false = DETECTIONS_PER_IMAGE - len(place)
    false = _draw_boxes(generator, num_false)
    labels = np.concatenate([drawn.labels[place], _draw_labels(generator, num_false)])
    scores = generator.uniform(0.05, 1, DETECTIONS_PER_IMAGE)
    order = np.argsort(-scores, kind="stable")
    return Detections(
        boxes=torch.tensor(np.concatenate([near, false])[order], dtype=torch.float32),
        scores=torch.tensor(scores[order], dtype=torch.float32),
        labels=torch.tensor(labels[order]),
    )


def as_lists(
    dataset: Dataset, detections: dict[str, Detections]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the same numbers as pycocotools takes them: a COCO document and a list of results."""
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for image_id, sample in enumerate(dataset.samples, start=1):
        drawn, found = sample.annotations, detections[sample.id]
        if drawn is None:
            continue
        annotations += [
            {
                "id": len(annotations) + 1 + place,
                "image_id": image_id,
                "category_id": label + 1,
                "bbox": box,
                "area": area,
                "iscrowd": int(crowd),
            }
            for place, (box, label, area, crowd) in enumerate(
                zip(
                    _xywh(drawn.boxes),
                    drawn.labels.tolist(),
                    drawn.areas.tolist(),
                    drawn.crowd.tolist(),
                    strict=True,
                )
            )
        ]
        results += [
            {"image_id": image_id, "category_id": label + 1, "bbox": box, "score": score}
            for box, label, score in zip(
                _xywh(found.boxes.double().numpy()),
                found.labels.tolist(),
                found.scores.tolist(),
                strict=True,
            )
        ]
    document = {
        "info": {},
        "images": [{"id": image_id} for image_id in range(1, len(dataset) + 1)],
        "categories": [
            {"id": number, "name": name} for number, name in enumerate(dataset.classes or (), 1)
        ],
        "annotations": annotations,
    }
    return document, results


def _xywh(boxes: NDArray[np.float64]) -> list[list[float]]:
    joined = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    rows: list[list[float]] = joined.tolist()
    return rows


def evaluate_lists(document: dict[str, Any], results: list[dict[str, Any]]) -> NDArray[np.float64]:
    """Return the 12 numbers of pycocotools, from its lists in memory."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = document
        truth.createIndex()
        # It adds fields to the rows that it is given.
        evaluator = COCOeval(truth, truth.loadRes([dict(row) for row in results]), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    numbers: NDArray[np.float64] = evaluator.stats
    return numbers


def twelve_numbers(dataset: Dataset, detections: dict[str, Detections]) -> NDArray[np.float64]:
    """Return the 12 numbers of COCO from what our evaluation hands to its evaluator.

    Of these our evaluation tells the seven that a report shows; they are checked to be the same.
    """
    inputs = coco_inputs(dataset, detections)
    evaluator = HotCocoEval(inputs.ground_truth, inputs.detections, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summary_lines()
    numbers = np.array(evaluator.stats)
    told = evaluate_detections(dataset, detections).metrics
    shown = [told[name] for name in (*_METRICS, "AR100")]
    if not np.array_equal(numbers[[0, 1, 2, 3, 4, 5, 8]], np.array(shown, dtype=np.float64)):
        raise SystemExit(f"evaluation: our metrics are {shown}, the evaluator's are {numbers}.")
    return numbers


def _largest_difference(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(np.abs(ours - theirs).max())

"""COCO metrics of detections on an annotated dataset."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
from hotcoco import COCOeval
from numpy.typing import NDArray

from distildet.data.dataset import Dataset
from distildet.evaluation.coco_inputs import coco_inputs
from distildet.structures import Detections

_EVALUATOR_NAMES = {
    "AP": "AP",
    "AP50": "AP50",
    "AP75": "AP75",
    "AP_small": "APs",
    "AP_medium": "APm",
    "AP_large": "APl",
    "AR100": "AR100",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Metrics of one detector on one dataset, as fractions 0..1.

    A metric is None where it is undefined: no object (of that size, of that class) to find.

    Args:
        metrics: AP, AP50, AP75, AP_small, AP_medium, AP_large and AR100.
        per_class: Class name -> AP and AP50, in the order of the labels.
        ground_truth: Fingerprint of what was evaluated against; equal ones can be compared.
        dataset: The annotated samples, in order.
        detections: By sample id, what was evaluated; comparisons draw from both.
    """

    metrics: dict[str, float | None]
    per_class: dict[str, dict[str, float | None]]
    ground_truth: str
    dataset: Dataset
    detections: Mapping[str, Detections]


def evaluate_detections(dataset: Dataset, detections: Mapping[str, Detections]) -> Evaluation:
    """Compute the COCO metrics of detections.

    At most the 100 best detections of an image and class count; crowd regions are ignored; the
    size buckets use the areas of the annotations. Equal to pycocotools.

    Args:
        dataset: Samples without annotations are left out.
        detections: Results in the image frame by sample id, one for each annotated sample.

    Returns:
        The evaluation; every metric is None where the dataset has no object.

    Raises:
        DataError: The dataset has no classes; an annotated sample has no detections; a detection
            has a label that is no class, or a box or score that is not finite.
    """
    inputs = coco_inputs(dataset, detections)
    evaluator = COCOeval(inputs.ground_truth, inputs.detections, "bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    # This computes the summary without printing it, as `summarize` would.
    evaluator.summary_lines()
    results = evaluator.get_results()
    return Evaluation(
        metrics={ours: _defined(results[name]) for ours, name in _EVALUATOR_NAMES.items()},
        per_class=_per_class(evaluator, inputs.classes.names),
        ground_truth=inputs.fingerprint,
        dataset=replace(
            dataset, samples=tuple(s for s in dataset.samples if s.annotations is not None)
        ),
        detections=detections,
    )


def _per_class(evaluator: COCOeval, names: tuple[str, ...]) -> dict[str, dict[str, float | None]]:
    """Average the precisions at all sizes and the largest number of detections, per class."""
    accumulated = cast(dict[str, Any], evaluator.eval)  # None only before `accumulate`
    # Axes: IoU thresholds from 0.5, recall thresholds, classes, sizes from "all", maximum counts.
    precision = np.asarray(accumulated["precision"])[:, :, :, 0, -1]
    return {
        name: {
            "AP": _mean_precision(precision[:, :, label]),
            "AP50": _mean_precision(precision[:1, :, label]),
        }
        for label, name in enumerate(names)
    }


def _mean_precision(precision: NDArray[np.float64]) -> float | None:
    return _defined(float(precision.mean()))


def _defined(value: float) -> float | None:
    # COCO evaluators write -1 for "no object to find"; a class has it everywhere or nowhere.
    return None if value < 0 else float(value)

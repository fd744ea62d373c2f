"""How good pseudo-labels are, where human annotations exist."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hotcoco import COCOeval
from numpy.typing import NDArray

from distildet.data.dataset import Dataset
from distildet.evaluation.coco_inputs import CocoInputs, coco_inputs
from distildet.structures import Detections

MATCH_IOU = 0.5

# The evaluator keeps the best detections of an image and class; all pseudo-labels count.
_EVERY_BOX = 1_000_000


def label_quality(dataset: Dataset, labels: Mapping[str, Detections]) -> dict[str, Any]:
    """Compute precision and recall of pseudo-labels against human annotations.

    In each image and class the pseudo-labels, best score first, each take the annotated box of
    highest IoU that is at least 0.5 and not taken yet. Crowd regions are not to be found, and a
    pseudo-label half of which lies in one is neither right nor wrong.

    Args:
        dataset: Samples without annotations are left out.
        labels: Pseudo-labels in the image frame by sample id, one entry for each annotated
            sample, thresholds already applied.

    Returns:
        precision (right / counted pseudo-labels), recall (found / annotated boxes), `num_labels`
        (counted), `num_objects` (annotated), and `per_class`: class name -> the same four. A
        ratio is None where its denominator is 0.

    Raises:
        DataError: The dataset has no classes; an annotated sample has no entry; a pseudo-label
            has a label that is no class, or a box or score that is not finite.
    """
    inputs = coco_inputs(dataset, labels)
    found, num_labels, num_objects = _count(_matched(inputs))
    return {
        **_quality(found.total(), num_labels.total(), num_objects.total()),
        "per_class": {
            name: _quality(found[label], num_labels[label], num_objects[label])
            for label, name in enumerate(inputs.classes)
        },
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Detections of which it is known whether they are right.

    Args:
        scores: [n] float64.
        labels: [n] int64.
        is_right: [n] bool.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    is_right: NDArray[np.bool_]


def judge(dataset: Dataset, labels: Mapping[str, Detections]) -> Judged:
    """Tell which detections are right, by the rule of `label_quality`.

    Args:
        dataset: As for `label_quality`.
        labels: See there, thresholds applied or not.

    Returns:
        All detections but those that are neither right nor wrong.

    Raises:
        DataError: See there.
    """
    evaluator = _matched(coco_inputs(dataset, labels))
    scores: list[float] = []
    classes: list[int] = []
    is_right: list[bool] = []
    for matches in evaluator.eval_imgs:
        if matches is None:
            continue
        for score, is_matched, is_ignored in zip(
            matches["dtScores"], matches["dtMatched"][0], matches["dtIgnore"][0], strict=True
        ):
            if not is_ignored:
                scores.append(score)
                classes.append(matches["category_id"] - 1)
                is_right.append(is_matched)
    return Judged(
        scores=np.array(scores, dtype=np.float64),
        labels=np.array(classes, dtype=np.int64),
        is_right=np.array(is_right, dtype=np.bool_),
    )


def _matched(inputs: CocoInputs) -> COCOeval:
    """Match all detections to the annotated boxes."""
    evaluator = COCOeval(inputs.ground_truth, inputs.detections, "bbox")
    evaluator.params.iou_thrs = [MATCH_IOU]
    evaluator.params.max_dets = [_EVERY_BOX]
    evaluator.params.area_rng = [[0.0, 1e10]]
    evaluator.params.area_rng_lbl = ["all"]
    evaluator.evaluate()
    return evaluator


def _count(evaluator: COCOeval) -> tuple[Counter[int], Counter[int], Counter[int]]:
    """Count right labels, all labels and objects by label, ignored ones in none of them."""
    found: Counter[int] = Counter()
    num_labels: Counter[int] = Counter()
    num_objects: Counter[int] = Counter()
    for matches in evaluator.eval_imgs:
        if matches is None:
            continue
        label = matches["category_id"] - 1
        counted = [
            is_matched
            for is_matched, is_ignored in zip(
                matches["dtMatched"][0], matches["dtIgnore"][0], strict=True
            )
            if not is_ignored
        ]
        found[label] += sum(counted)
        num_labels[label] += len(counted)
        num_objects[label] += matches["gtIgnore"].count(False)
    return found, num_labels, num_objects


def _quality(found: int, num_labels: int, num_objects: int) -> dict[str, float | int | None]:
    return {
        "precision": found / num_labels if num_labels else None,
        "recall": found / num_objects if num_objects else None,
        "num_labels": num_labels,
        "num_objects": num_objects,
    }

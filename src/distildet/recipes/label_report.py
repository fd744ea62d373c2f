"""What a label stage says about its labels: how many are left, and how good they are."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from distildet.classes import ClassList
from distildet.data.dataset import Annotations, Dataset, Sample
from distildet.errors import DataError
from distildet.evaluation.label_quality import label_quality
from distildet.pseudolabels.select import score_limits
from distildet.pseudolabels.store import StoredLabels


def kept_line(
    folder: Path,
    stored: Mapping[str, StoredLabels],
    thresholds: Mapping[str, float],
    classes: ClassList,
) -> str:
    """Say how much is left to learn from.

    Args:
        folder: Of the stage, for the message.
        stored: All labels.
        thresholds: Class name -> score from which a detection is a target.
        classes: Of the labels.

    Raises:
        DataError: Nothing.
    """
    limits = score_limits(thresholds, classes)
    counts = [
        int((entry.detections.scores >= limits[entry.detections.labels]).sum())
        for entry in stored.values()
    ]
    scope = f"{min(thresholds.values()):.2f} to {max(thresholds.values()):.2f}"
    if not sum(counts):
        raise DataError(
            f"{folder}: the teacher has no box at or above the thresholds ({scope}) in "
            f"{len(counts)} images, so there is nothing to learn from. Look at the teacher with "
            "`distildet predict`, or choose a new run folder (--out) and lower the label stage's "
            "threshold or, where that is auto, fallback_threshold."
        )
    return (
        f"Pseudo labels: {sum(counts)} boxes on {sum(map(bool, counts))} of {len(counts)} images, "
        f"thresholds {scope}."
    )


def quality_of(
    hidden: Dataset | None,
    stored: Mapping[str, StoredLabels],
    thresholds: Mapping[str, float],
    classes: ClassList,
    known: Tensor,
) -> dict[str, Any] | None:
    """Compare labels with hidden human ones.

    Args:
        hidden: Images whose human labels are hidden from the student.
        stored: All labels.
        thresholds: Class name -> score from which a detection counts.
        classes: Of the labels.
        known: [k] bool, classes on which is compared.

    Returns:
        As `label_quality`, or None where no image has both.
    """
    if hidden is None:
        return None
    both = [_of_classes(sample, known) for sample in hidden.samples if sample.id in stored]
    if not both:
        return None
    limits = score_limits(thresholds, classes)
    kept = {}
    for sample in both:
        found = stored[sample.id].detections
        kept[sample.id] = found.chosen(found.scores >= limits[found.labels])
    return label_quality(replace(hidden, samples=tuple(both)), kept)


def _of_classes(sample: Sample, known: Tensor) -> Sample:
    drawn = sample.annotations
    if drawn is None:
        return sample
    kept = known.numpy()[drawn.labels].astype(np.bool_)
    return replace(
        sample,
        annotations=Annotations(
            boxes=drawn.boxes[kept],
            labels=drawn.labels[kept],
            areas=drawn.areas[kept],
            crowd=drawn.crowd[kept],
        ),
    )


def quality_lines(quality: Mapping[str, Any]) -> Sequence[str]:
    """Return a line for the labels and, where several made them, one for each of these.

    Args:
        quality: As `quality.json` has it.
    """
    lines = [f"Pseudo labels against the hidden human labels: {_figures(quality)}."]
    lines += [
        f"  {one['name']} alone, on its {one['num_classes']} classes: {_figures(one)}."
        for one in quality.get("teachers", ())
    ]
    return lines


def _figures(quality: Mapping[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "not measured" if value is None else f"{100 * value:.1f} %"

    return (
        f"precision {percent(quality['precision'])}, recall {percent(quality['recall'])} (IoU 0.5)"
    )

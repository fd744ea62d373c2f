"""What the region or dense heads of student and teacher say where the student's match a box."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from distildet.structures import DensePrediction, RegionPrediction, Targets

FOREGROUND_IOU = 0.5
"""Overlap with a box from which on a region stands for its object, as region heads learn it."""


@dataclass(frozen=True, kw_only=True)
class MatchedResponse:
    """Class logits of the places that stand for an object, and the object of each.

    Args:
        student: [m c].
        teacher: [m c], of the same places.
        objects: [m] int64, places of the boxes among those of all images, one after the other.
    """

    student: Tensor
    teacher: Tensor
    objects: Tensor


def matched_priors(
    student: DensePrediction,
    teacher: DensePrediction,
    targets: Sequence[Targets],
    labels: Tensor,
) -> MatchedResponse:
    """Return the predictions at priors that the student's own matching gives to a box.

    Of boxes with the prior's label the one of largest overlap is its object.

    Args:
        student: With `matched_labels`.
        teacher: Of the same priors.
        targets: One an image.
        labels: Classes that are compared; a box of another has no place here.

    Raises:
        ValueError: The student was given no targets.
    """
    if student.matched_labels is None:
        raise ValueError(
            "The term 'response' needs the student's priors matched to boxes. Call the student "
            "with targets, one for each image of the batch."
        )
    matched, own, guide = (
        torch.cat(levels, dim=1)
        for levels in (student.matched_labels, student.logits, teacher.logits)
    )  # [b n], [b n k]
    priors = torch.cat(student.priors)  # [n 4]
    positive = torch.isin(matched, labels)
    starts = _starts(targets)
    objects = [
        start + _nearest(priors[chosen], label[chosen], target)
        for start, chosen, label, target in zip(starts, positive, matched, targets, strict=True)
    ]
    return MatchedResponse(
        student=own[positive], teacher=guide[positive], objects=torch.cat(objects)
    )


def matched_regions(
    student: RegionPrediction, teacher: RegionPrediction, targets: Sequence[Targets], labels: Tensor
) -> MatchedResponse:
    """Return the predictions for regions that overlap a box by half or more, their object.

    Args:
        student: Predictions.
        teacher: Of the same regions.
        targets: One an image.
        labels: Classes that are compared; a box of another has no place here.
    """
    chosen, objects = [], []
    for start, regions, target in zip(_starts(targets), student.proposals, targets, strict=True):
        overlap, nearest = _best(box_iou(regions, target.boxes))
        is_object = overlap >= FOREGROUND_IOU
        if len(target.boxes):
            is_object &= torch.isin(target.labels[nearest], labels)
        chosen.append(is_object)
        objects.append(start + nearest[is_object])
    own, guide, taken = (torch.cat(list(one)) for one in (student.logits, teacher.logits, chosen))
    return MatchedResponse(student=own[taken], teacher=guide[taken], objects=torch.cat(objects))


def _starts(targets: Sequence[Targets]) -> list[int]:
    """Return the place of each image's first box among those of all images."""
    counts = [len(target.boxes) for target in targets]
    return [sum(counts[:index]) for index in range(len(counts))]


def _nearest(priors: Tensor, labels: Tensor, target: Targets) -> Tensor:
    """Return [n], which box of its label overlaps a prior most."""
    overlap = box_iou(priors, target.boxes)
    of_other = labels[:, None] != target.labels
    return _best(overlap.masked_fill(of_other, -1.0))[1]


def _best(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of each row [n m] and its column; 0 and 0 where there is no column."""
    if not overlap.shape[1]:
        empty = overlap.new_zeros(len(overlap))
        return empty, empty.long()
    largest = overlap.max(1)
    return largest.values, largest.indices

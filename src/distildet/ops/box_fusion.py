"""Boxes of several teachers for one image become one set of boxes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import batched_nms, nms

# Weight of a box with a score of 0: it has no say beside another, but the mean stays defined.
_LEAST_SCORE = 1e-6

Fused = tuple[Tensor, Tensor, Tensor]
"""Boxes [n 4] and scores [n], float32, and labels [n], best score first."""


def weighted_boxes(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    teachers: Tensor,
    *,
    trust: Tensor,
    known: Tensor,
    iou: float,
) -> Fused:
    """Fuse boxes by weighted box fusion, where only teachers that know a class vote on it.

    In each class the boxes, largest weight first, join the fused box of highest IoU above `iou`,
    or begin one. The weight of a box is its score times the trust in its teacher.

    Formula:
        fused box = sum of weight * box / sum of weight
        fused score = sum over t of trust_t * score_t / sum over t of trust_t, where t goes through
            the teachers that know the class, and score_t is the best score of teacher t in the
            group of boxes, 0 where it has none.

    Args:
        boxes: [n 4] xyxy pixels of all teachers, one teacher after the other; of equal weights
            the one that stands first goes first.
        scores: [n] 0..1, comparable between teachers.
        labels: [n] int64.
        teachers: [n] int64, whose box it is.
        trust: [t] > 0, of each teacher.
        known: [t k] bool, classes that each teacher knows, its own boxes' among them.
        iou: Overlap above which boxes of a class are one object, 0..1.

    Returns:
        The fused boxes; of equal scores the smaller label stands first.

    Source:
        Solovyev et al., "Weighted boxes fusion", arXiv 1910.13302, section 3.
        Differs: a mean over the teachers that know the class, of which each votes once, in place
        of a mean over boxes times min(boxes, models) / models.
    """
    sources = [tensor.double().numpy() for tensor in (boxes, scores)]
    owners = teachers.numpy()
    trusts = trust.double().numpy()
    votes = known.double().numpy().T @ trusts  # [k]
    weights = trusts[owners] * np.maximum(sources[1], _LEAST_SCORE)
    order = np.argsort(-weights, kind="stable")
    places = labels.numpy()[order]
    fused = []
    for label in np.unique(places).tolist():
        chosen = order[places == label]
        fused_boxes, best = _clusters(
            sources[0][chosen],
            sources[1][chosen],
            owners[chosen],
            weights[chosen],
            num_teachers=len(trusts),
            iou=iou,
        )
        fused.append((fused_boxes, best @ trusts / votes[label], label))
    return _joined(fused)


def _clusters(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    owners: NDArray[np.int64],
    weights: NDArray[np.float64],
    *,
    num_teachers: int,
    iou: float,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the fused boxes of one class [m 4], and the best score of each teacher [m t]."""
    fused = np.empty_like(boxes)
    sums = np.zeros_like(boxes)
    totals = np.zeros(len(boxes))
    best = np.zeros((len(boxes), num_teachers))
    count = 0
    for box, score, owner, weight in zip(boxes, scores, owners, weights, strict=True):
        place = _overlapped(box, fused[:count], iou)
        if place == count:
            count += 1
        sums[place] += weight * box
        totals[place] += weight
        fused[place] = sums[place] / totals[place]
        best[place, owner] = max(best[place, owner], score)
    return fused[:count], best[:count]


def _overlapped(box: NDArray[np.float64], others: NDArray[np.float64], iou: float) -> int:
    """Return the first of those that overlap a box most, or their number if none is above iou."""
    if not len(others):
        return 0
    sides = np.minimum(others[:, 2:], box[2:]) - np.maximum(others[:, :2], box[:2])
    common = np.maximum(sides, 0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod() - common
    # Two boxes without area have no IoU.
    overlaps = np.divide(common, areas, out=np.zeros_like(common), where=areas > 0)
    nearest = int(overlaps.argmax())
    return nearest if overlaps[nearest] > iou else len(others)


def _joined(fused: list[tuple[NDArray[np.float64], NDArray[np.float64], int]]) -> Fused:
    if not fused:
        return torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)
    boxes = torch.from_numpy(np.concatenate([boxes for boxes, _, _ in fused])).float()
    scores = torch.from_numpy(np.concatenate([scores for _, scores, _ in fused])).float()
    labels = torch.cat([torch.full((len(scores),), label) for _, scores, label in fused])
    # Rounding may leave the mean of ones a little above 1.
    scores = scores.clamp(max=1.0)
    order = scores.argsort(descending=True, stable=True)
    return boxes[order], scores[order], labels[order]


def strongest_boxes(
    boxes: Tensor, scores: Tensor, labels: Tensor, teachers: Tensor, *, trust: Tensor, iou: float
) -> Fused:
    """Keep of the boxes of a class that overlap the one of largest score times trust, as it is.

    Args:
        boxes: As for `weighted_boxes`, like all that is not said here.
        scores: See there; a box that is kept keeps its own.
        labels: See there.
        teachers: See there.
        trust: See there.
        iou: Overlap above which the weaker box of a class goes.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, scores, labels, teachers = (each[order] for each in (boxes, scores, labels, teachers))
    # In float64, since boxes of different classes are moved far apart to be told apart.
    weights = trust.double()[teachers] * scores.double()
    kept = batched_nms(boxes.double(), weights, labels, iou).sort().values
    return boxes[kept], scores[kept], labels[kept]


def without_duplicates(boxes: Tensor, scores: Tensor, labels: Tensor, *, iou: float) -> Fused:
    """Keep of boxes that are nearly the same, whatever their classes, the one of best score.

    Args:
        boxes: [n 4] xyxy pixels, best score first.
        scores: [n].
        labels: [n].
        iou: Overlap above which two boxes are the same; 1 keeps all.
    """
    if iou >= 1:
        return boxes, scores, labels
    # The kept ones come in the order of the scores; of equal ones the first stays first.
    kept = nms(boxes.double(), scores.double(), iou).sort().values
    return boxes[kept], scores[kept], labels[kept]

"""What the scores of a teacher are worth: curves that make scores of several comparable."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distildet.classes import ClassList
from distildet.ops.score_calibration import fit_logistic, isotonic_curve, logistic
from distildet.pseudolabels.store import StoredLabels

FittedMethod = Literal["temperature", "isotonic"]
Method = Literal["none", "rank"] | FittedMethod
FITTED: tuple[FittedMethod, ...] = ("temperature", "isotonic")
"""Methods that need human labels."""

# A teacher keeps to its scores as they are, and a class to its teacher, against as much as four
# and sixteen undecided detections say.
_TEACHER_STRENGTH, _CLASS_STRENGTH = 1.0, 4.0

Numbers = NDArray[np.float64]


class Calibration(Protocol):
    """Maps the scores of one teacher; higher ones never become lower than others of the class."""

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return calibrated scores [n] of scores [n] and labels [n], float32."""
        ...

    def as_json(self, classes: ClassList) -> dict[str, Any]:
        """Return what was fitted, classes by their names."""
        ...


@dataclass(frozen=True)
class Logistic:
    """Slope and bias of each class.

    Args:
        slopes: [k], 1 / temperature.
        biases: [k].
    """

    slopes: tuple[float, ...]
    biases: tuple[float, ...]

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return calibrated scores."""
        which = labels.numpy()
        slopes, biases = np.array(self.slopes)[which], np.array(self.biases)[which]
        return _as_scores(logistic(scores.double().numpy(), slopes, biases))

    def as_json(self, classes: ClassList) -> dict[str, Any]:
        """Return slope and bias by class name."""
        return {
            "classes": {
                name: {"slope": slope, "bias": bias}
                for name, slope, bias in zip(classes, self.slopes, self.biases, strict=True)
            }
        }


@dataclass(frozen=True, eq=False)
class Curves:
    """A curve of straight lines for each class.

    Args:
        knots: For each class scores [m], rising, and values [m].
        is_fitted: The same ones for all classes, fitted to human labels.
    """

    knots: tuple[tuple[Numbers, Numbers], ...]
    is_fitted: bool

    def __call__(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return calibrated scores."""
        before, which = scores.double().numpy(), labels.numpy()
        after = before.copy()
        for label in np.unique(which).tolist():
            places, values = self.knots[label]
            after[which == label] = np.interp(before[which == label], places, values)
        return _as_scores(after)

    def as_json(self, classes: ClassList) -> dict[str, Any]:
        """Return the knots where they were fitted, else how many each class has."""
        if self.is_fitted:
            places, values = self.knots[0]
            return {"curve": {"scores": places.tolist(), "values": values.tolist()}}
        counts = (len(places) for places, _ in self.knots)
        return {"classes": dict(zip(classes, ({"knots": n} for n in counts), strict=True))}


def _as_scores(values: Numbers) -> Tensor:
    return torch.from_numpy(np.clip(values, 0.0, 1.0)).float()


def fit_calibration(
    method: FittedMethod,
    scores: Numbers,
    labels: NDArray[np.int64],
    is_right: NDArray[np.bool_],
    num_classes: int,
) -> Calibration:
    """Fit the curve of a teacher to detections that were compared with human labels.

    "temperature" is a slope and a bias for each class, which keep to those of the teacher where
    the class has few detections, as those of the teacher keep to the scores as they are.
    "isotonic" is one rising curve for all classes, without any shape given: it wants a thousand
    detections and more.

    Args:
        method: Which.
        scores: [n] 0..1.
        labels: [n], of the detections.
        is_right: [n].
        num_classes: Of the class list.
    """
    if method == "isotonic":
        knots = isotonic_curve(scores, is_right)
        return Curves((knots,) * num_classes, is_fitted=True)
    whole = fit_logistic(scores, is_right, strength=_TEACHER_STRENGTH)
    fitted = [
        fit_logistic(
            scores[labels == label],
            is_right[labels == label],
            prior=whole,
            strength=_CLASS_STRENGTH,
        )
        for label in range(num_classes)
    ]
    return Logistic(tuple(slope for slope, _ in fitted), tuple(bias for _, bias in fitted))


def rank_calibrations(
    shards: Iterable[Sequence[Mapping[str, StoredLabels]]], known: Tensor
) -> tuple[Calibration, ...]:
    """Bring the scores of several teachers to one scale by their ranks, without human labels.

    In each class the best detection of each teacher over all images gets the mean score of these
    detections, the second best that of the second best, and so on; only teachers that know the
    class take part, one that has found fewer boxes with scores of 0. Only images that all could
    label count, so that equal ranks mean equally good boxes where teachers are equally good. The
    scale stays that of scores: thresholds keep their meaning, which ranks themselves would take
    away.

    Args:
        shards: For each part of the images their labels by sample id, one mapping a teacher. Parts
            are taken one after the other, and only scores are kept.
        known: [t k] bool, classes that each teacher knows.

    Returns:
        One for each teacher; equal scores stay equal.
    """
    num_teachers, num_classes = known.shape
    parts: list[list[list[Numbers]]] = [
        [[np.zeros(0)] for _ in range(num_classes)] for _ in range(num_teachers)
    ]
    for stored in shards:
        shared = set(stored[0]).intersection(*stored[1:])
        for own, labels in zip(parts, stored, strict=True):
            for kept, scores in zip(
                own, _scores_by_label(labels, shared, num_classes), strict=True
            ):
                kept.append(scores)
    by_class = [[-np.sort(-np.concatenate(kept)) for kept in own] for own in parts]
    means = [
        _mean_by_rank([by_class[t][label] for t in known[:, label].nonzero().flatten().tolist()])
        for label in range(num_classes)
    ]
    return tuple(
        Curves(
            tuple(_knots(own[label], means[label]) for label in range(num_classes)),
            is_fitted=False,
        )
        for own in by_class
    )


def _scores_by_label(
    stored: Mapping[str, StoredLabels], shared: Collection[str], num_classes: int
) -> list[Numbers]:
    """Return for each label all scores in some of the images."""
    found = [entry.detections for name, entry in stored.items() if name in shared]
    scores = torch.cat([torch.zeros(0), *(one.scores for one in found)]).double().numpy()
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(one.labels for one in found)]).numpy()
    return [scores[labels == label] for label in range(num_classes)]


def _mean_by_rank(scores: Sequence[Numbers]) -> Numbers:
    longest = max((len(one) for one in scores), default=0)
    padded = [np.pad(one, (0, longest - len(one))) for one in scores]
    return np.mean(padded, axis=0) if padded else np.zeros(0)


def _knots(own: Numbers, means: Numbers) -> tuple[Numbers, Numbers]:
    """Return a teacher's scores, rising, each once, and the mean of the best rank of each."""
    places, first = np.unique(-own, return_index=True)
    if not len(places):
        return np.array([0.0, 1.0]), np.array([0.0, 1.0])
    return -places[::-1], means[first][::-1]

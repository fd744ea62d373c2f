"""Which of a teacher's detections become targets."""

import hashlib
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from distildet.classes import ClassList
from distildet.data.dataset import Dataset
from distildet.errors import ConfigError, nearest_names
from distildet.pseudolabels.store import StoredLabels
from distildet.structures import Targets

Weighting = Literal["hard", "score", "soft"]


def choose_thresholds(
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    *,
    threshold: float | Literal["auto"] | Mapping[str, float],
    labeled: Dataset | None,
    fallback: float = 0.4,
    ignore_floor: float = 0.1,
) -> dict[str, float]:
    """Choose the score from which a detection of a class becomes a target.

    "auto" is the rule of data distillation (Radosavovic et al., arXiv 1712.04440, section 3.2):
    the threshold at which a class has as many boxes an image as the labeled images have.

    Args:
        stored: All labels of the store.
        classes: Of the stored labels.
        threshold: One number, a number for some classes by name, or "auto".
        labeled: Images with human labels, the source of "auto", its classes matched by name; crowd
            regions and images without annotations do not count.
        fallback: Threshold of classes without a number or without a labeled box.
        ignore_floor: "auto" never goes below it, and takes it where a class has fewer detections
            than that.

    Returns:
        Class name -> threshold.

    Raises:
        ConfigError: A name is no class, or a number is not from 0 to 1.
    """
    if isinstance(threshold, Mapping):
        for name in threshold:
            if name not in classes.names:
                raise ConfigError(
                    f"threshold names the class {name!r}. {nearest_names(name, classes)}"
                )
        chosen = {name: threshold.get(name, fallback) for name in classes}
    elif threshold == "auto":
        chosen = _auto(stored, classes, _boxes_per_image(labeled), fallback, ignore_floor)
    else:
        chosen = dict.fromkeys(classes, threshold)
    for name, value in chosen.items():
        if not 0 <= value <= 1:
            raise ConfigError(
                f"threshold of the class {name!r} is {value}. Accepted: numbers from 0 to 1."
            )
    return chosen


def _auto(
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    boxes_per_image: Mapping[str, float],
    fallback: float,
    ignore_floor: float,
) -> dict[str, float]:
    chosen = dict.fromkeys(classes, fallback)
    for name, scores in _scores_by_class(stored, classes).items():
        if name in boxes_per_image:
            wanted = max(1, round(boxes_per_image[name] * len(stored)))
            found = scores.sort(descending=True).values[:wanted]
            is_enough = len(found) == wanted
            chosen[name] = max(float(found[-1]), ignore_floor) if is_enough else ignore_floor
    return chosen


def _scores_by_class(stored: Mapping[str, StoredLabels], classes: ClassList) -> dict[str, Tensor]:
    if not stored:
        return {}
    scores = torch.cat([entry.detections.scores for entry in stored.values()])
    labels = torch.cat([entry.detections.labels for entry in stored.values()])
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    return dict(zip(classes, scores[labels.argsort()].split_with_sizes(counts), strict=True))


def _boxes_per_image(labeled: Dataset | None) -> dict[str, float]:
    """Return the mean number of boxes in an annotated image, for each class that has boxes."""
    if labeled is None or labeled.classes is None:
        return {}
    drawn = [s.annotations for s in labeled.samples if s.annotations is not None]
    labels = Counter(label for one in drawn for label in one.labels[~one.crowd].tolist())
    return {labeled.classes[label]: count / len(drawn) for label, count in labels.items()}


def score_limits(thresholds: Mapping[str, float], classes: ClassList) -> Tensor:
    """Return the thresholds as a tensor that labels index, [k] float32 like the scores.

    In float32 a score equal to its threshold as written, such as 0.7, is never below it.
    """
    return torch.tensor([thresholds[name] for name in classes], dtype=torch.float32)


def select_targets(
    stored: Mapping[str, StoredLabels],
    thresholds: Mapping[str, float],
    classes: ClassList,
    *,
    ignore_floor: float,
    weighting: Weighting = "hard",
    known_classes: Tensor | None = None,
) -> dict[str, Targets]:
    """Turn stored detections into targets, in the image frame.

    Args:
        stored: Labels by sample id.
        thresholds: Class name -> score from which a detection is a target.
        classes: Of the stored labels.
        ignore_floor: Detections from this score up to the threshold become ignore regions; those
            below are dropped.
        weighting: "hard" gives every target weight 1, "score" its score; with "soft" the weight is
            1 and the score is what the student's score of the class shall become.
        known_classes: [k] bool, classes that the teacher knows; None for all.

    Returns:
        Targets by sample id, for every stored image.
    """
    limits = score_limits(thresholds, classes)
    known = torch.ones(len(classes), dtype=torch.bool) if known_classes is None else known_classes
    targets = {}
    for name, entry in stored.items():
        found = entry.detections
        is_target = found.scores >= limits[found.labels]
        is_unsure = ~is_target & (found.scores >= ignore_floor)
        kept = found.chosen(is_target)
        targets[name] = Targets(
            boxes=kept.boxes,
            labels=kept.labels,
            weights=kept.scores if weighting == "score" else torch.ones_like(kept.scores),
            ignore=found.boxes[is_unsure],
            known_classes=known,
            origin="teacher",
            scores=kept.scores if weighting == "soft" else None,
        )
    return targets


def keep_images(targets: Mapping[str, Targets], *, keep_empty: float, seed: int) -> list[str]:
    """Return the images to train on: all with a box, and a share of those without.

    An image in which the teacher was sure of nothing may hold objects that it missed; a few serve
    as background. Which ones is a pure function of seed and sample id.

    Args:
        targets: By sample id.
        keep_empty: Share of the images without a box that are kept, 0..1.
        seed: Of the run.
    """
    return [
        name
        for name, target in targets.items()
        if len(target.boxes) or _uniform(seed, name) < keep_empty
    ]


def _uniform(seed: int, name: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64

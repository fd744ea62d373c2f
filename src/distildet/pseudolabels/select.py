"""Which of a teacher's detections become targets."""

import hashlib
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from distildet.classes import ClassList
from distildet.data.dataset import Dataset
from distildet.errors import ConfigError, nearest_names
from distildet.pseudolabels.store import StoredLabels
from distildet.structures import Targets

Weighting = Literal["hard", "score"]


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
        labeled: Images with human labels, the source of "auto"; crowd regions do not count.
        fallback: Threshold of classes without a number or without labels.
        ignore_floor: "auto" never goes below it.

    Returns:
        Class name -> threshold.

    Raises:
        ConfigError: A name is no class, or a number is not between 0 and 1.
    """
    if isinstance(threshold, Mapping):
        for name in threshold:
            if name not in classes.names:
                raise ConfigError(
                    f"threshold names the class {name!r}. {nearest_names(name, classes)}"
                )
        chosen = {name: threshold.get(name, fallback) for name in classes}
    elif threshold == "auto":
        chosen = _auto(stored, classes, labeled, fallback, ignore_floor)
    else:
        chosen = dict.fromkeys(classes, threshold)
    for name, value in chosen.items():
        if not 0 < value < 1:
            raise ConfigError(
                f"threshold of the class {name!r} is {value}. Accepted: numbers between 0 and 1."
            )
    return chosen


def _auto(
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    labeled: Dataset | None,
    fallback: float,
    ignore_floor: float,
) -> dict[str, float]:
    counts = _boxes_per_class(labeled, len(classes))
    if labeled is None or not stored:
        return dict.fromkeys(classes, fallback)
    scores = torch.cat([entry.detections.scores for entry in stored.values()])
    labels = torch.cat([entry.detections.labels for entry in stored.values()])
    chosen = {}
    for label, name in enumerate(classes):
        wanted = round(counts[label] / len(labeled) * len(stored))
        found = scores[labels == label].sort(descending=True).values
        if counts[label] == 0:
            chosen[name] = fallback
        elif wanted > len(found):
            chosen[name] = ignore_floor
        else:
            # Scores of exactly 1 would give a threshold that no number between 0 and 1 is.
            score = float(found[max(wanted, 1) - 1])
            chosen[name] = min(max(score, ignore_floor), 1 - 1e-6)
    return chosen


def _boxes_per_class(labeled: Dataset | None, num_classes: int) -> list[int]:
    counts = [0] * num_classes
    for sample in labeled.samples if labeled is not None else ():
        if sample.annotations is not None:
            for label in sample.annotations.labels[~sample.annotations.crowd]:
                counts[int(label)] += 1
    return counts


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
        weighting: "hard" gives every target weight 1, "score" its score.
        known_classes: [k] bool, classes that the teacher knows; None for all.

    Returns:
        Targets by sample id, for every stored image.
    """
    limits = torch.tensor([thresholds[name] for name in classes], dtype=torch.float32)
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

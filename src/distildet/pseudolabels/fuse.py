"""Labels of several teachers become the labels of one store, shard by shard."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from distildet import artefacts
from distildet.classes import ClassList
from distildet.ops.box_fusion import (
    Fused,
    strongest_boxes,
    weighted_boxes,
    without_duplicates,
)
from distildet.ops.processes import num_processes
from distildet.ops.shared_work import on_first, share_out
from distildet.pseudolabels.calibrate import Calibration
from distildet.pseudolabels.manifest import OF_SEVERAL
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections


@dataclass(frozen=True, kw_only=True)
class Fusion:
    """How boxes of several teachers become one set.

    Args:
        method: "wbf", the mean of the boxes of an object, or "nms", the strongest of them.
        iou: Overlap above which boxes of a class are one object.
        duplicates_iou: Overlap above which, of boxes of any classes, the best score stays; 1 = off.
    """

    method: Literal["wbf", "nms"] = "wbf"
    iou: float = 0.55
    duplicates_iou: float = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """The labels of one teacher.

    Args:
        store: Complete, its labels in the student's classes.
        known: [k] bool, classes that the teacher knows.
        calibration: Of its scores; None leaves them as they are.
        trust: Its say beside the other teachers', > 0.
    """

    store: PseudoLabelStore
    known: Tensor
    calibration: Calibration | None = None
    trust: float = 1.0

    def calibrated(self, found: Detections) -> Tensor:
        """Return the scores of what the teacher has found, calibrated."""
        if self.calibration is None:
            return found.scores
        return self.calibration(found.scores, found.labels)

    def settings(self, classes: ClassList) -> dict[str, Any]:
        """Return as JSON values all that labels fused of it depend on."""
        fitted = {} if self.calibration is None else self.calibration.as_json(classes)
        return {
            "labels": self.store.fingerprint(),
            "known": self.known.tolist(),
            "trust": self.trust,
            "calibration": artefacts.fingerprint_json(fitted),
        }


def fused_settings(sources: Sequence[Source], fusion: Fusion, classes: ClassList) -> dict[str, Any]:
    """Return as JSON values all that the fused labels depend on.

    Args:
        sources: What is fused.
        fusion: How.
        classes: Of the labels.
    """
    return {
        OF_SEVERAL: vars(fusion),
        "teachers": [source.settings(classes) for source in sources],
    }


def fuse_stores(
    store: PseudoLabelStore,
    sources: Sequence[Source],
    fusion: Fusion,
    *,
    between: Callable[[int], None],
) -> None:
    """Fill the missing shards of a store with what several teachers say together.

    Several processes fuse a shard each; the one of rank 0 writes. An image that some teacher could
    not label is in no shard.

    Args:
        store: Made for the images of the sources, with as many a shard.
        sources: One for each teacher.
        fusion: How.
        between: Called before each shard with the number of images of the finished ones.
    """
    missing = on_first(store.missing_shards)

    def fused(share: Sequence[int]) -> Iterator[dict[str, StoredLabels]]:
        for index in share:
            between(min(index * store.shard_size, store.num_images))
            yield fuse_shard(
                [source.store.read_shard(index) for source in sources], sources, fusion
            )

    for start in range(0, len(missing), num_processes()):
        some = missing[start : start + num_processes()]
        shards, error = share_out(some, fused)
        on_first(partial(_write, store, some, shards))
        if error is not None:
            raise error


def _write(
    store: PseudoLabelStore, indices: Sequence[int], shards: Sequence[Mapping[str, StoredLabels]]
) -> None:
    for index, labels in zip(indices, shards, strict=False):
        store.write_shard(index, labels)


def fuse_shard(
    shards: Sequence[Mapping[str, StoredLabels]], sources: Sequence[Source], fusion: Fusion
) -> dict[str, StoredLabels]:
    """Fuse the labels of each image that every teacher could label, in the order of the first."""
    return {
        name: replace(
            entry,
            detections=fuse_detections(
                [shard[name].detections for shard in shards], sources, fusion
            ),
        )
        for name, entry in shards[0].items()
        if all(name in shard for shard in shards)
    }


def fuse_detections(
    found: Sequence[Detections], sources: Sequence[Source], fusion: Fusion
) -> Detections:
    """Return what several teachers have found in an image, calibrated and fused.

    Of one teacher the boxes stay as they are, with calibrated scores.

    Args:
        found: One for each teacher.
        sources: The teachers.
        fusion: How.
    """
    scores = [source.calibrated(one) for source, one in zip(sources, found, strict=True)]
    if len(found) == 1:
        order = scores[0].argsort(descending=True, stable=True)
        return replace(found[0], scores=scores[0]).chosen(order)
    teachers = torch.repeat_interleave(torch.tensor([len(one) for one in found]))
    pooled = (
        torch.cat([one.boxes for one in found]),
        torch.cat(scores),
        torch.cat([one.labels for one in found]),
    )
    boxes, fused_scores, labels = without_duplicates(
        *_fused(pooled, teachers, sources, fusion), iou=fusion.duplicates_iou
    )
    return Detections(boxes=boxes, scores=fused_scores, labels=labels)


def _fused(pooled: Fused, teachers: Tensor, sources: Sequence[Source], fusion: Fusion) -> Fused:
    trust = torch.tensor([source.trust for source in sources])
    if fusion.method == "nms":
        return strongest_boxes(*pooled, teachers, trust=trust, iou=fusion.iou)
    known = torch.stack([source.known for source in sources])
    return weighted_boxes(*pooled, teachers, trust=trust, known=known, iou=fusion.iou)

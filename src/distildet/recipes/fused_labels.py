"""Labels of several teachers: each labels into a store of its own, and one store has them fused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distildet import artefacts
from distildet.classes import ClassList
from distildet.data.dataset import Dataset, Sample
from distildet.evaluation.label_quality import Judged, judge
from distildet.ops.score_calibration import calibration_error
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.calibrate import (
    FITTED,
    Calibration,
    FittedMethod,
    Method,
    fit_calibration,
    rank_calibrations,
)
from distildet.pseudolabels.fuse import Fusion, Source, fuse_stores, fused_settings
from distildet.pseudolabels.manifest import MANIFEST, OF_SEVERAL, read_manifest
from distildet.pseudolabels.quarantine import QUARANTINE, Quarantine
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.recipes.labelers import Labeler
from distildet.recipes.progress import Progress
from distildet.recipes.run_context import Teacher
from distildet.recipes.run_folder import STORE

TEACHERS = "teachers"
CALIBRATION = "calibration"

Label = Callable[[Teacher, Sequence[Sample], Path], PseudoLabelStore]
"""Fills the store of one teacher for some images."""


@dataclass(frozen=True, kw_only=True)
class Together:
    """How several label together.

    Args:
        labelers: Who labels.
        classes: Of the labels.
        calibration: Of the scores, fitted on `labeled` where that is needed.
        fusion: Of the boxes.
        labeled: Images with human labels in these classes.
        max_bad_fraction: Share of the images that some labeler may be unable to label.
    """

    labelers: Sequence[Labeler]
    classes: ClassList
    calibration: Method
    fusion: Fusion
    labeled: Dataset | None
    max_bad_fraction: float


def label_together(
    together: Together,
    samples: Sequence[Sample],
    folder: Path,
    *,
    label: Label,
    between: Callable[[int, int], None],
    progress: Progress,
) -> tuple[PseudoLabelStore, list[Source]]:
    """Fill the stores of several labelers, and the one with what they say together.

    Every process comes here; the one of rank 0 writes. A second call goes on where an earlier one
    stopped. The fused store is made anew where another way of fusing is asked for.

    Args:
        together: Who labels, and how their labels are fused.
        samples: Images to label.
        folder: Gets `teachers/N/store/` for each, `calibration/N/store/` with their labels of
            the labeled images where these are none of `samples`, `calibration.json`, the fused
            `store/`, and `quarantine.jsonl` with the images that any of them could not label.
        label: Fills the store of one labeler.
        between: Told finished and all images before each shard is fused; may interrupt.
        progress: Told how well scores fit.

    Returns:
        The fused store, and what it was made of.

    Raises:
        DistildetError: As `label`.
        StoreError: `store/` is no fused one.
        GateError: More images are in quarantine than may be.
    """
    stores = [
        label(one.teacher, samples, folder / TEACHERS / one.key / STORE)
        for one in together.labelers
    ]
    judged_on = _label_labeled(together, samples, stores, folder, label)
    calibrations = on_first(lambda: _calibrated(together, stores, judged_on, folder, progress))
    sources = [
        Source(
            store=store,
            known=one.known(together.classes),
            calibration=calibration,
            trust=one.trust,
        )
        for one, store, calibration in zip(together.labelers, stores, calibrations, strict=True)
    ]
    on_first(lambda: _set_aside(together, samples, folder))
    fused = on_first(lambda: _opened(together, sources, samples, folder / STORE))
    fuse_stores(fused, sources, together.fusion, between=lambda done: between(done, len(samples)))
    between(len(samples), len(samples))
    return fused, sources


def _label_labeled(
    together: Together,
    samples: Sequence[Sample],
    stores: Sequence[PseudoLabelStore],
    folder: Path,
    label: Label,
) -> Sequence[PseudoLabelStore]:
    """Return the stores that have the labeled images, where curves are fitted on them."""
    if together.calibration not in FITTED or together.labeled is None:
        return ()
    labeled = together.labeled.samples
    if {sample.id for sample in labeled} <= {sample.id for sample in samples}:
        return stores
    return [
        label(one.teacher, labeled, folder / CALIBRATION / one.key / STORE)
        for one in together.labelers
    ]


def _calibrated(
    together: Together,
    stores: Sequence[PseudoLabelStore],
    judged_on: Sequence[PseudoLabelStore],
    folder: Path,
    progress: Progress,
) -> Sequence[Calibration | None]:
    """Return the calibration of each labeler, after writing and telling what was fitted."""
    method, classes = together.calibration, together.classes
    if method == "none":
        return [None for _ in stores]
    told: list[dict[str, Any]] = [{} for _ in stores]
    if method == "rank":
        known = torch.stack([one.known(classes) for one in together.labelers])
        shards = (
            [store.read_shard(index) for store in stores] for index in range(stores[0].num_shards)
        )
        fitted = list(rank_calibrations(shards, known))
    else:
        fitted = []
        for place, (one, store) in enumerate(zip(together.labelers, judged_on, strict=True)):
            halves = _judged_halves(together.labeled, store)
            fitted.append(_fit(method, halves, len(classes)))
            told[place] = _facts(method, halves, len(classes))
            progress.message(_line(one, method, told[place]))
    artefacts.write_json(
        folder / "calibration.json",
        {
            "method": method,
            "teachers": [
                {"name": one.name, **facts, **calibration.as_json(classes)}
                for one, facts, calibration in zip(together.labelers, told, fitted, strict=True)
            ],
        },
    )
    return fitted


def _judged_halves(labeled: Dataset | None, store: PseudoLabelStore) -> tuple[Judged, Judged]:
    """Judge the labels of every other labeled image, and those of the rest."""
    stored = store.read()
    samples = [] if labeled is None else labeled.samples
    judged = [s for s in samples if s.annotations is not None and s.id in stored]
    first, second = (_judged(labeled, judged[start::2], stored) for start in (0, 1))
    return first, second


def _judged(
    labeled: Dataset | None, samples: Sequence[Sample], stored: Mapping[str, StoredLabels]
) -> Judged:
    if labeled is None or not samples:
        return Judged(
            scores=np.zeros(0), labels=np.zeros(0, dtype=np.int64), is_right=np.zeros(0, dtype=bool)
        )
    found = {sample.id: stored[sample.id].detections for sample in samples}
    return judge(replace(labeled, samples=tuple(samples)), found)


def _fit(method: FittedMethod, parts: Sequence[Judged], num_classes: int) -> Calibration:
    return fit_calibration(
        method,
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.is_right for part in parts]),
        num_classes,
    )


def _facts(method: FittedMethod, halves: tuple[Judged, Judged], num_classes: int) -> dict[str, Any]:
    """Return how many detections there are, and how well scores fit before and after.

    The error after is that of each half by the curve of the other.
    """
    after = [
        _fit(method, [other], num_classes)(
            torch.from_numpy(half.scores).float(), torch.from_numpy(half.labels)
        )
        for half, other in (halves, halves[::-1])
    ]
    scores = np.concatenate([half.scores for half in halves])
    is_right = np.concatenate([half.is_right for half in halves])
    calibrated = torch.cat(after).double().numpy()
    return {
        "detections": len(scores),
        "right": int(is_right.sum()),
        "error_before": calibration_error(scores, is_right),
        "error_after": calibration_error(calibrated, is_right),
    }


def _line(one: Labeler, method: str, facts: Mapping[str, Any]) -> str:
    if not facts["detections"]:
        return (
            f"{one.name}: no detection on the labeled images, so that its scores stay as they are."
        )
    return (
        f"{one.name}: scores calibrated ({method}) on {facts['detections']} detections, "
        f"{facts['right']} of them right; they differ from their precision by "
        f"{facts['error_before']:.3f} on average before, {facts['error_after']:.3f} after."
    )


def _set_aside(together: Together, samples: Sequence[Sample], folder: Path) -> None:
    """List what any of them could not label, and which of them that was."""
    artefacts.remove_partial(folder)
    bad = Quarantine(folder / QUARANTINE, samples, max_bad_fraction=together.max_bad_fraction)
    bad.forget([sample.id for sample in samples])
    for one in together.labelers:
        path = folder / TEACHERS / one.key / QUARANTINE
        bad.take_over(Quarantine(path, samples, max_bad_fraction=1.0), one.name)
    bad.write()
    bad.raise_if_too_many()


def _opened(
    together: Together, sources: Sequence[Source], samples: Sequence[Sample], folder: Path
) -> PseudoLabelStore:
    """Return the fused store; one that was fused otherwise holds nothing that is lost."""
    settings = fused_settings(sources, together.fusion, together.classes)
    if (folder / MANIFEST).exists():
        before = read_manifest(folder).settings
        if OF_SEVERAL in before and before != settings:
            artefacts.remove_folder(folder)
    return PseudoLabelStore.create_or_resume(
        folder,
        settings=settings,
        classes=together.classes,
        sample_ids=[sample.id for sample in samples],
        shard_size=sources[0].store.shard_size,
    )

"""The label stage: teacher's detections of every image, kept in a store."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from distildet import artefacts
from distildet.classes import ClassList
from distildet.data.dataset import Dataset, Sample
from distildet.data.evaluation_batches import evaluation_batches, plan_batches
from distildet.errors import DataError, StoreError
from distildet.evaluation.detect_dataset import predictor
from distildet.evaluation.label_quality import label_quality
from distildet.ops.precision import Precision
from distildet.ops.processes import from_first
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.generate import label_images
from distildet.pseudolabels.quarantine import QUARANTINE, Quarantine
from distildet.pseudolabels.select import choose_thresholds, score_limits
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.recipes.progress import Progress
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_folder import is_done, write_done
from distildet.recipes.schema import LabelStage
from distildet.structures import Detections, ImageBatch
from distildet.training.interruption import Interruption

OnBadImage: TypeAlias = Literal["error", "quarantine"]

STORE = "store"
THRESHOLDS = "thresholds.json"
SHARD_SIZE = 512
"""Images a shard: what a kill can cost is at most this many forward passes."""


def label_with(
    teacher: Teacher,
    samples: Sequence[Sample],
    classes: ClassList,
    folder: Path,
    *,
    batch_size: int,
    workers: int,
    device: torch.device,
    interruption: Interruption,
    progress: Progress,
    work: str,
    precision: Precision = "fp32",
    shard_size: int = SHARD_SIZE,
    on_bad_image: OnBadImage = "quarantine",
    max_bad_fraction: float = 0.01,
) -> PseudoLabelStore:
    """Fill a store with a teacher's detections, going on where an earlier call stopped.

    Several processes share the batches out; all must come here, and the one of rank 0 writes.

    Args:
        teacher: Whose boxes they are.
        samples: Images to label.
        classes: Class list of the stored labels; the teacher's classes are mapped by name.
        folder: Of the store.
        batch_size: Images per forward pass.
        workers: Loader processes of this process.
        device: Where to compute.
        interruption: Asked after every batch.
        progress: Told finished images.
        work: Name of the work for `progress`.
        precision: What the teacher computes in; labels of two precisions are never mixed.
        shard_size: Images a shard.
        on_bad_image: Whether an image that cannot be decoded, or for which the teacher returns
            no answer or boxes that are not finite, ends the work ("error"), or is listed in
            `quarantine.jsonl` beside the store and has no entry in it ("quarantine"); `progress` is
            told how many.
        max_bad_fraction: Share of the images that may be in quarantine, rounded up.

    Raises:
        DataError: An image is bad, with "error".
        GateError: More images are in quarantine than may be.
        StoreError: The folder holds labels of another teacher, setting, or set of images.
        ClassMapError: A class of the list has no counterpart among those of the teacher.
    """
    quarantine = _quarantine(folder, samples, on_bad_image, max_bad_fraction)
    detector = teacher.detector
    mapping = teacher.map_to(classes).labels
    settings = {
        "teacher": teacher.fingerprint,
        "teacher_classes": list(detector.spec.classes),
        "class_map": list(mapping),
        "image_size": detector.spec.image_size,
    }
    if precision != "fp32":
        # Stores of fp32 keep the fingerprint that they had before there was a choice.
        settings["precision"] = precision
    store = on_first(
        lambda: PseudoLabelStore.create_or_resume(
            folder,
            settings=settings,
            classes=classes,
            sample_ids=[sample.id for sample in samples],
            shard_size=shard_size,
        )
    )
    detector.expect(sample.id for sample in samples)
    predict = predictor(detector, device, precision)

    def predict_mapped(batch: ImageBatch) -> list[Detections]:
        interruption.raise_if_requested()
        return [with_labels_of(found, mapping) for found in predict(batch)]

    label_images(
        store,
        samples,
        plan=lambda part: plan_batches(part, batch_size),
        load=lambda share: evaluation_batches(
            share, image_size=detector.spec.view_size, workers=workers
        ),
        predict=predict_mapped,
        progress=lambda done, total: progress.advance(work, done, total),
        quarantine=quarantine,
    )
    if quarantine is not None and len(quarantine):
        progress.message(
            f"Left out: {len(quarantine)} of {len(samples)} images, which cannot be labeled and "
            f"are not trained on; {quarantine.path} lists them with the reasons."
        )
    return store


def _quarantine(
    store: Path, samples: Sequence[Sample], on_bad_image: OnBadImage, max_bad_fraction: float
) -> Quarantine | None:
    path = store.with_name(QUARANTINE)
    if on_bad_image == "quarantine":
        return Quarantine(path, samples, max_bad_fraction=max_bad_fraction)
    if path.exists():
        raise StoreError(
            f"{path}: an earlier call put images into quarantine, but now on_bad_image is 'error'. "
            f"Set it to quarantine, or delete {store} and this list, and label again."
        )
    return None


def read_labels(store: PseudoLabelStore, samples: Sequence[Sample]) -> dict[str, StoredLabels]:
    """Read the labels of finished work; images in quarantine have no entry.

    Args:
        store: As `label_with` returns it.
        samples: The images of the work.

    Raises:
        StoreError: Shards are missing, or images that are not in quarantine.
    """
    stored = store.read()
    quarantine = Quarantine(store.folder.with_name(QUARANTINE), samples, max_bad_fraction=1.0)
    lost = [s.id for s in samples if s.id not in stored and s.id not in quarantine]
    if lost:
        raise StoreError(
            f"{store.folder}: has no entry for {len(lost)} images such as {lost[0]!r}, and "
            f"{quarantine.path} does not list them. It was probably deleted: delete the store too "
            "and label again."
        )
    return stored


def with_labels_of(found: Detections, mapping: Sequence[int | None]) -> Detections:
    """Return detections with labels of another class list; what it does not name is dropped.

    Args:
        found: Labels index the detector's own class list.
        mapping: Label of the detector -> label of the other list, or None.
    """
    table = torch.tensor([-1 if label is None else label for label in mapping])
    labels = table[found.labels]
    return replace(found, labels=labels, probs=None).chosen(labels >= 0)


def run_label_stage(context: RunContext, stage: LabelStage, folder: Path) -> None:
    """Label the images of a stage, choose thresholds, measure what can be measured.

    Consumes images and the teacher. Produces `store/`, `thresholds.json`, where images are bad
    `quarantine.jsonl`, and where hidden human labels exist `quality.json`. A rerun goes on with
    the first missing shard. Several processes share the labeling; the one of rank 0 does the rest.

    Args:
        context: Of the run.
        stage: What to label.
        folder: Of the stage.
    """
    if from_first(is_done(folder)):
        return
    on_first(lambda: _reuse_other_seed(context, folder))
    dataset = context.data.dataset(stage.images)
    store = label_with(
        context.teachers[0],
        dataset.samples,
        context.classes,
        folder / STORE,
        batch_size=stage.batch_size,
        workers=context.recipe.data.workers,
        device=context.device,
        interruption=context.interruption,
        progress=context.progress,
        work=context.work(folder),
        precision=context.precision,
        on_bad_image=stage.on_bad_image,
        max_bad_fraction=stage.max_bad_fraction,
    )
    on_first(lambda: _finish(context, stage, folder, read_labels(store, dataset.samples)))


def _finish(
    context: RunContext, stage: LabelStage, folder: Path, stored: Mapping[str, StoredLabels]
) -> None:
    """Choose thresholds, measure what can be measured, and mark the stage as done."""
    thresholds = choose_thresholds(
        stored,
        context.classes,
        threshold=stage.threshold,
        labeled=context.data.labeled,
        fallback=stage.fallback_threshold,
        ignore_floor=stage.ignore_floor,
    )
    artefacts.write_json(folder / THRESHOLDS, thresholds)
    context.progress.message(_kept_line(folder, stored, thresholds, context.classes))
    quality = _quality(context.data.hidden, stored, thresholds, context.classes)
    if quality is not None:
        artefacts.write_json(folder / "quality.json", quality)
        context.progress.message(_quality_line(quality))
    write_done(folder, {"images": len(stored)})


def _reuse_other_seed(context: RunContext, folder: Path) -> None:
    """Copy the finished store of another seed: labels do not depend on the seed."""
    if (folder / STORE).exists():
        return
    for other in sorted(context.out.glob(f"seed-*/{folder.name}")):
        if other != folder and is_done(other):
            # The list before the store: a kill in between must not leave a store without it.
            if (other / QUARANTINE).exists():
                artefacts.write_bytes(folder / QUARANTINE, (other / QUARANTINE).read_bytes())
            with artefacts.new_folder(folder / STORE) as temporary:
                shutil.copytree(other / STORE, temporary, dirs_exist_ok=True)
            return


def read_thresholds(folder: Path) -> dict[str, float]:
    """Return class name -> threshold of a finished label stage."""
    thresholds: dict[str, float] = json.loads((folder / THRESHOLDS).read_text(encoding="utf-8"))
    return thresholds


def _quality(
    hidden: Dataset | None,
    stored: Mapping[str, StoredLabels],
    thresholds: Mapping[str, float],
    classes: ClassList,
) -> dict[str, Any] | None:
    if hidden is None:
        return None
    known = replace(hidden, samples=tuple(s for s in hidden.samples if s.id in stored))
    if not len(known):
        return None
    limits = score_limits(thresholds, classes)
    kept = {}
    for sample in known.samples:
        found = stored[sample.id].detections
        kept[sample.id] = found.chosen(found.scores >= limits[found.labels])
    return label_quality(known, kept)


def _kept_line(
    folder: Path,
    stored: Mapping[str, StoredLabels],
    thresholds: Mapping[str, float],
    classes: ClassList,
) -> str:
    """Say how much is left to learn from.

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


def _quality_line(quality: Mapping[str, Any]) -> str:
    def percent(value: float | None) -> str:
        return "not measured" if value is None else f"{100 * value:.1f} %"

    return (
        "Pseudo labels against the hidden human labels: precision "
        f"{percent(quality['precision'])}, recall {percent(quality['recall'])} (IoU 0.5)."
    )

"""The label stage: detections of teachers in every image, kept in a store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from distildet import artefacts
from distildet.classes import ClassList
from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import evaluation_batches, plan_batches
from distildet.errors import StoreError
from distildet.evaluation.detect_dataset import predictor
from distildet.ops.precision import Precision
from distildet.ops.processes import from_first
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.fuse import Fusion, Source, fuse_shard
from distildet.pseudolabels.generate import label_images
from distildet.pseudolabels.manifest import describe_work
from distildet.pseudolabels.quarantine import QUARANTINE, Quarantine
from distildet.pseudolabels.select import choose_thresholds
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.recipes.calibration_choice import chosen_calibration
from distildet.recipes.fused_labels import Together, label_together
from distildet.recipes.label_report import kept_line, quality_lines, quality_of
from distildet.recipes.labelers import known_classes, stage_labelers
from distildet.recipes.progress import Progress
from distildet.recipes.reused_labels import reuse_labels
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_folder import STORE, is_done, write_done
from distildet.recipes.schema import LabelStage
from distildet.structures import Detections, ImageBatch
from distildet.training.interruption import Interruption

OnBadImage: TypeAlias = Literal["error", "quarantine"]

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
    store = on_first(
        lambda: PseudoLabelStore.create_or_resume(
            folder,
            settings=_settings(teacher, classes, precision),
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


def _settings(teacher: Teacher, classes: ClassList, precision: Precision) -> dict[str, Any]:
    """Return as JSON values all that the labels of a teacher depend on, but the images."""
    settings = {
        "teacher": teacher.fingerprint,
        "teacher_classes": list(teacher.detector.spec.classes),
        "class_map": list(teacher.map_to(classes).labels),
        "image_size": teacher.detector.spec.image_size,
    }
    # Stores of fp32 keep the fingerprint that they had before there was a choice.
    return settings if precision == "fp32" else {**settings, "precision": precision}


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


def run_label_stage(
    context: RunContext, stage: LabelStage, folder: Path, *, previous: Path | None = None
) -> None:
    """Label the images of a stage, choose thresholds, measure what can be measured.

    Consumes images and teachers, or the student of the train stage before. Produces `store/`,
    `thresholds.json`, where images are bad `quarantine.jsonl`, where hidden human labels exist
    `quality.json`, and where several label or scores are calibrated what `label_together` says. A
    rerun goes on with the first missing shard. Several processes share the labeling; the one of
    rank 0 does the rest.

    Args:
        context: Of the run.
        stage: What to label.
        folder: Of the stage.
        previous: Folder of the train stage before, if any.
    """
    if from_first(is_done(folder)):
        return
    samples = context.data.dataset(stage.images).samples
    together = _together(context, stage, previous)
    label = partial(_label, context, stage)
    sources: list[Source] = []
    if len(together.labelers) == 1 and together.calibration == "none":
        store = label(together.labelers[0].teacher, samples, folder / STORE)
    else:
        store, sources = label_together(
            together,
            samples,
            folder,
            label=label,
            between=partial(_advance, context, f"{context.work(folder)}: fusing"),
            progress=context.progress,
        )
    on_first(
        lambda: _finish(
            context,
            stage,
            folder,
            stored=read_labels(store, samples),
            together=together,
            sources=sources,
        )
    )


def _together(context: RunContext, stage: LabelStage, previous: Path | None) -> Together:
    return Together(
        labelers=stage_labelers(context, stage, previous),
        classes=context.classes,
        calibration=chosen_calibration(context, stage),
        fusion=Fusion(
            method=stage.fusion.method,
            iou=stage.fusion.iou,
            duplicates_iou=stage.fusion.duplicates_iou,
        ),
        labeled=context.data.labeled,
        max_bad_fraction=stage.max_bad_fraction,
    )


def _label(
    context: RunContext,
    stage: LabelStage,
    teacher: Teacher,
    samples: Sequence[Sample],
    folder: Path,
) -> PseudoLabelStore:
    """Fill the store of one teacher in a folder of the stage."""
    wanted = describe_work(
        _settings(teacher, context.classes, context.precision),
        context.classes,
        [sample.id for sample in samples],
        SHARD_SIZE,
    )
    on_first(lambda: reuse_labels(context, stage, wanted, folder))
    return label_with(
        teacher,
        samples,
        context.classes,
        folder,
        batch_size=stage.batch_size,
        workers=context.recipe.data.workers,
        device=context.device,
        interruption=context.interruption,
        progress=context.progress,
        work=context.work(folder.parent),
        precision=context.precision,
        on_bad_image=stage.on_bad_image,
        max_bad_fraction=stage.max_bad_fraction,
    )


def _advance(context: RunContext, work: str, done: int, total: int) -> None:
    context.interruption.raise_if_requested()
    context.progress.advance(work, done, total)


def _finish(
    context: RunContext,
    stage: LabelStage,
    folder: Path,
    *,
    stored: Mapping[str, StoredLabels],
    together: Together,
    sources: Sequence[Source],
) -> None:
    """Choose thresholds, measure what can be measured, and mark the stage as done."""
    thresholds = _thresholds(context, stage, stored)
    artefacts.write_json(folder / THRESHOLDS, thresholds)
    context.progress.message(kept_line(folder, stored, thresholds, context.classes))
    known = known_classes(context, stage)
    quality = quality_of(context.data.hidden, stored, thresholds, context.classes, known)
    if quality is not None:
        if len(sources) > 1:
            quality["teachers"] = [
                _quality_alone(context, stage, source, one.name, together.fusion)
                for one, source in zip(together.labelers, sources, strict=True)
            ]
        artefacts.write_json(folder / "quality.json", quality)
        for line in quality_lines(quality):
            context.progress.message(line)
    write_done(folder, {"images": len(stored)})


def _thresholds(
    context: RunContext, stage: LabelStage, stored: Mapping[str, StoredLabels]
) -> dict[str, float]:
    return choose_thresholds(
        stored,
        context.classes,
        threshold=stage.threshold,
        labeled=context.data.labeled,
        fallback=stage.fallback_threshold,
        ignore_floor=stage.ignore_floor,
    )


def _quality_alone(
    context: RunContext, stage: LabelStage, source: Source, name: str, fusion: Fusion
) -> dict[str, Any]:
    """Measure the calibrated labels of one teacher, with thresholds of their own."""
    stored = fuse_shard([source.store.read()], [source], fusion)
    thresholds = _thresholds(context, stage, stored)
    measured = quality_of(context.data.hidden, stored, thresholds, context.classes, source.known)
    return {"name": name, "num_classes": int(source.known.sum()), **(measured or {})}


def read_thresholds(folder: Path) -> dict[str, float]:
    """Return class name -> threshold of a finished label stage."""
    thresholds: dict[str, float] = json.loads((folder / THRESHOLDS).read_text(encoding="utf-8"))
    return thresholds

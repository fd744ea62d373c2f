"""The train stage: streams of images with their targets train the student."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from distildet.data.dataset import Dataset
from distildet.data.loader import Stream, TrainingSample, targets_from_annotations, training_batches
from distildet.data.transforms import Augmentation
from distildet.detectors.base import Detector
from distildet.detectors.bundle import save_detector
from distildet.errors import ConfigError, DataError
from distildet.evaluation.coco_metrics import evaluate_detections
from distildet.evaluation.detect_dataset import detect_dataset
from distildet.ops.precision import Precision
from distildet.ops.processes import from_first, num_processes, rank
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.cached_teacher import CachedTeacher
from distildet.pseudolabels.select import keep_images, select_targets
from distildet.pseudolabels.store import PseudoLabelStore
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.recipes.chosen_objects import draw_chosen
from distildet.recipes.distill_terms import build_terms, term_settings
from distildet.recipes.kept_images import keep_decoded
from distildet.recipes.label_stage import read_thresholds
from distildet.recipes.labelers import known_classes
from distildet.recipes.observed_images import ObservedViews, observed_draws
from distildet.recipes.run_context import RunContext
from distildet.recipes.run_folder import STORE, STUDENT, is_done, write_done
from distildet.recipes.schema import LabelStage, TrainStage
from distildet.recipes.stage_remarks import (
    batch_norm_remarks,
    left_out_remarks,
    loss_remarks,
    weight_remarks,
)
from distildet.recipes.streams import LABELED_BY
from distildet.recipes.streams import Stream as StreamName
from distildet.recipes.student import initial_student
from distildet.recipes.teacher_cache import cached_teacher, remove_cache
from distildet.training.loop import Trainer
from distildet.training.preparing import ObservedImages
from distildet.training.settings import TrainSettings
from distildet.training.task import Task

EVALUATION_BATCH = 16


def run_train_stage(
    context: RunContext,
    stage: TrainStage,
    folder: Path,
    *,
    seed: int,
    steps: int,
    previous: Path | None,
    labels: Sequence[tuple[Path, LabelStage]],
) -> None:
    """Train the student through one stage.

    Consumes the previous stage's bundle, for each stream with pseudo targets the store of the last
    label stage with its images, and the teacher where the stage distills. Produces `student/`
    (bundle with averaged weights), `checkpoints/`, `metrics.jsonl`, `prototypes/` with a picture of
    each class where a loss chooses objects, and until it is done `teacher-cache/` where the recipe
    asks for it. A rerun goes on from the newest checkpoint that verifies. Every process of a run
    comes here; that of rank 0 writes, and each its share of the teacher cache.

    Args:
        context: Of the run.
        stage: How to train.
        folder: Of the stage.
        seed: Of this run.
        steps: Optimiser steps.
        previous: Folder of the train stage before, if any.
        labels: Folder and settings of each label stage before, in order.
    """
    if from_first(is_done(folder)):
        on_first(lambda: remove_cache(folder))
        return
    streams = [
        (_stream(context, stage, name, labels, seed), count)
        for name, count in stage.counts().items()
    ]
    settings = _settings(stage, seed, folder.name, steps, context.precision)
    cache = _cache_config(stage)
    work = context.work(folder)
    if context.pixel_cache is not None:
        streams, line = keep_decoded(streams, context.pixel_cache)
        if line is not None:
            context.progress.message(f"{work}: {line}")
    student = initial_student(context, stage, seed, previous)
    tell_all = partial(_tell, context, work)
    tell_all(batch_norm_remarks(student, stage.batch_norm, stage.batch_size // stage.accumulate))
    teacher = _teacher(context, stage, streams, folder, settings)
    task = _task(context, stage, student, teacher, settings)
    tell_all(loss_remarks(task))
    observed = _observed_views(context, stage, streams, task, settings)
    trainer = Trainer(
        task,
        settings,
        folder,
        batches=lambda start, stop: training_batches(
            streams,
            seed=seed,
            image_size=context.recipe.data.image_size,
            augmentation=_augmentation(stage),
            start_step=start,
            stop_step=stop,
            workers=context.recipe.data.workers,
            num_views=None if cache is None else cache.views,
            share=slice(rank(), None, num_processes()),
        ),
        evaluate=None
        if context.data.validation is None
        else lambda detector: validation_metrics(context, detector),
        device=context.device,
        interruption=context.interruption,
        progress=lambda done, total, values: context.progress.advance(work, done, total, values),
        observed=None
        if observed is None
        else ObservedImages(
            batches=observed.batches,
            num_batches=observed.num_batches,
            steps_per_pass=max(len(stream.samples) / count for stream, count in streams),
            progress=partial(_advance, context, f"{work}: images to prepare losses"),
            remark=lambda line: tell_all([line]),
        ),
    )
    result = trainer.run()
    for line in result.warnings:
        context.progress.message(line)
    tell_all([*left_out_remarks(result, folder, steps), *weight_remarks(task)])
    noted = {
        "steps": steps,
        "rejected": result.rejected,
        "overflows": result.overflows,
        "seconds": result.seconds,
        "images_seen": {stream.name: count * steps for stream, count in streams},
    }
    if isinstance(teacher, CachedTeacher):
        teacher.close()
    between = context.interruption.raise_if_requested
    on_first(lambda: _finish(result.detector, task, observed, folder, noted, between=between))


def _advance(context: RunContext, work: str, done: int, total: int) -> None:
    context.interruption.raise_if_requested()
    context.progress.advance(work, done, total)


def _tell(context: RunContext, work: str, lines: Sequence[str]) -> None:
    for line in lines:
        context.progress.message(f"{work}: {line}")


def _finish(
    student: Detector,
    task: Task,
    observed: ObservedViews | None,
    folder: Path,
    noted: Mapping[str, Any],
    *,
    between: Callable[[], None],
) -> None:
    save_detector(student, folder / STUDENT)
    if observed is not None:
        choosing = [term for term, looks in task.preparations.items() if looks.objects > 0]
        draw_chosen(choosing, observed, folder, between=between)
    write_done(folder, noted)
    remove_cache(folder)


def _task(
    context: RunContext,
    stage: TrainStage,
    student: Detector,
    teacher: Detector | None,
    settings: TrainSettings,
) -> Task:
    if teacher is None:
        return Task(student)
    spec = context.teachers[stage.teacher].spec_for(context.classes)
    return Task(student, teacher, build_terms(settings, student.spec, spec))


def _observed_views(
    context: RunContext,
    stage: TrainStage,
    streams: Sequence[tuple[Stream, int]],
    task: Task,
    settings: TrainSettings,
) -> ObservedViews | None:
    """Return the images that losses look at beforehand, if there are such losses."""
    if not task.preparations:
        return None
    draws = observed_draws(
        [stream for stream, _ in streams],
        [*task.preparations.values()],
        seed=settings.seed,
        stage=settings.stage,
    )
    return ObservedViews(
        draws=draws,
        image_size=context.recipe.data.image_size,
        batch_size=stage.batch_size // stage.accumulate,
        workers=context.recipe.data.workers,
    )


def _teacher(
    context: RunContext,
    stage: TrainStage,
    streams: Sequence[tuple[Stream, int]],
    folder: Path,
    settings: TrainSettings,
) -> Detector | None:
    """Return the teacher of a stage that distills, or what it has said beforehand."""
    if not settings.terms:
        return None
    cache = _cache_config(stage)
    if cache is not None:
        return cached_teacher(
            context,
            cache,
            streams,
            folder,
            seed=settings.seed,
            steps=settings.steps,
            augmentation=_augmentation(stage),
            batch_size=stage.batch_size // stage.accumulate,
            place=stage.teacher,
        )
    # A copy: a stage that is done already when a run goes on would not have moved the original to
    # this device and memory layout, and later stages would round in another way.
    return copy.deepcopy(context.teachers[stage.teacher].detector)


def validation_metrics(context: RunContext, detector: Detector) -> Mapping[str, float | None]:
    """Return the COCO metrics of a detector on the validation images, in every process."""
    validation = context.data.validation
    if validation is None:
        return {}
    detections = detect_dataset(
        detector,
        validation.samples,
        batch_size=EVALUATION_BATCH,
        workers=context.recipe.data.workers,
        device=context.device,
    )
    return on_first(lambda: evaluate_detections(validation, detections).metrics)


def _stream(
    context: RunContext,
    stage: TrainStage,
    name: StreamName,
    labels: Sequence[tuple[Path, LabelStage]],
    seed: int,
) -> Stream:
    dataset = context.data.dataset(name)
    fitting = [one for one in labels if one[1].images in LABELED_BY[name]]
    if stage.targets[name] == "human":
        samples = _human(dataset, len(context.classes))
    elif not fitting:
        raise ConfigError(f"targets.{name} is 'pseudo' but no label stage comes before.")
    else:
        samples = _pseudo(context, dataset, *fitting[-1], seed=seed)
    if not samples:
        raise DataError(
            f"Stream {name!r} has no image left to train on. For pseudo labels: choose a new run "
            "folder (--out) and lower the threshold or raise keep_empty of the label stage."
        )
    return Stream(name=name, samples=tuple(samples))


def _human(dataset: Dataset, num_classes: int) -> list[TrainingSample]:
    return [
        TrainingSample(
            sample=sample, targets=targets_from_annotations(sample.annotations, num_classes)
        )
        for sample in dataset.samples
        if sample.annotations is not None
    ]


def _pseudo(
    context: RunContext, dataset: Dataset, folder: Path, stage: LabelStage, *, seed: int
) -> list[TrainingSample]:
    stored = PseudoLabelStore.open(folder / STORE).read()
    targets = select_targets(
        stored,
        read_thresholds(folder),
        context.classes,
        ignore_floor=stage.ignore_floor,
        weighting=stage.weighting,
        known_classes=known_classes(context, stage),
    )
    kept = set(keep_images(targets, keep_empty=stage.keep_empty, seed=seed))
    return [
        TrainingSample(sample=sample, targets=targets[sample.id])
        for sample in dataset.samples
        if sample.id in kept
    ]


def _augmentation(stage: TrainStage) -> Augmentation | None:
    config = stage.augmentation
    if config == "none":
        return None
    return Augmentation(flip=config.flip, zoom=config.zoom, colour=config.colour)


def _cache_config(stage: TrainStage) -> TeacherCacheConfig | None:
    """Return how the teacher is stored; views that are all the same picture are one view."""
    cache = stage.teacher_cache
    if cache is None or stage.augmentation != "none":
        return cache
    return cache.model_copy(update={"views": 1})


def _settings(
    stage: TrainStage, seed: int, name: str, steps: int, precision: Precision
) -> TrainSettings:
    return TrainSettings(
        seed=seed,
        stage=name,
        steps=steps,
        accumulate=stage.accumulate,
        optimizer=stage.optimizer.name,
        lr=stage.optimizer.lr,
        backbone_lr_factor=stage.optimizer.backbone_lr_factor,
        weight_decay=stage.optimizer.weight_decay,
        momentum=stage.optimizer.momentum,
        warmup=stage.schedule.warmup,
        decay=stage.schedule.decay,
        ema=stage.ema,
        clip=stage.clip,
        batch_norm=stage.batch_norm,
        evaluations=stage.evaluations,
        checkpoint_every=stage.checkpoint_every,
        precision=precision,
        terms=tuple(term_settings(entry) for entry in stage.distill),
    )

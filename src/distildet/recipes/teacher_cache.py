"""The teacher's predictions of the views of a stage: stored once, then read at every step."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distildet import artefacts
from distildet.data.fixed_views import fixed_views, num_passes, view_batches
from distildet.data.loader import Draw, Stream
from distildet.data.transforms import Augmentation
from distildet.detectors.base import Detector
from distildet.errors import ConfigError
from distildet.losses.base import LOSSES, misfit
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.cached_teacher import CACHED_PARTS, CachedTeacher
from distildet.pseudolabels.dense_store import DenseStore
from distildet.pseudolabels.manifest import Manifest
from distildet.recipes.cache_filling import CacheFilling
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.recipes.run_context import RunContext
from distildet.specs import DetectorSpec

CACHE = "teacher-cache"
SHARD_SIZE, SHARD_BYTES = 64, 256_000_000
"""Views and bytes of a shard at most: what a kill can cost, and a third of the memory it takes."""


def refuse_uncached(loss: str, student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Make sure that a loss needs nothing of the teacher but what is stored.

    Args:
        loss: A registered name.
        student: Facts of the student.
        teacher: Facts of the teacher.

    Raises:
        ConfigError: It needs more of this pair.
    """
    more = LOSSES.get(loss).needs_of(student, teacher).teacher - CACHED_PARTS
    if more:
        fitting = [
            name
            for name in LOSSES.names()
            if LOSSES.get(name).needs_of(student, teacher).teacher <= CACHED_PARTS
            and misfit(name, student, teacher, {}) is None
        ]
        advice = f", or take a loss that needs no more: {', '.join(fitting)}" if fitting else ""
        raise ConfigError(
            f"teacher_cache keeps nothing of the teacher but its part {', '.join(CACHED_PARTS)!r}, "
            f"and the loss {loss!r} needs its {', '.join(sorted(more))}. Remove "
            f"teacher_cache{advice}."
        )


def cached_teacher(
    context: RunContext,
    config: TeacherCacheConfig,
    streams: Sequence[tuple[Stream, int]],
    folder: Path,
    *,
    seed: int,
    steps: int,
    augmentation: Augmentation | None,
    batch_size: int,
    place: int = 0,
) -> CachedTeacher:
    """Return the teacher of a stage after storing what it says about every view of it.

    A rerun goes on with the first shard that is missing. Several processes share the shards out,
    and each writes its own; they must see the same folder. All close their teacher before the
    cache is removed.

    Args:
        context: Of the run.
        config: How much is stored.
        streams: Of the stage, each with the number of its images in a batch.
        folder: Of the stage.
        seed: Of this run.
        steps: Optimiser steps of the stage.
        augmentation: How far views vary.
        batch_size: Views the teacher sees at once.
        place: Of the teacher in the recipe's `teachers`.

    Raises:
        DataError: An image cannot be decoded, or the teacher returns numbers that are not finite.
        ResourceError: The disk is too small for the whole, or was filled by somebody else; what
            was complete is intact.
        StoreError: The folder holds the cache of another teacher or setting.
    """
    teacher = context.teachers[place]
    draws = fixed_views(streams, seed=seed, steps=steps, num_views=config.views)
    image_size = context.recipe.data.image_size
    settings = {
        "teacher": teacher.fingerprint,
        "precision": context.precision,
        "image_size": image_size,
        "augmentation": None if augmentation is None else vars(augmentation),
        "seed": seed,
        "views": config.views,
        "top_k": config.top_k,
        # Views are cut around the boxes.
        "boxes_fingerprint": _boxes_fingerprint(streams),
    }
    passes = num_passes(streams, steps=steps)
    if passes <= config.views:
        context.progress.message(_why_nothing_is_saved(passes))
    filling = CacheFilling(
        context,
        teacher.detector,
        lambda parts: view_batches(
            [[draws[place] for place in part] for part in parts],
            image_size=image_size,
            augmentation=augmentation,
            workers=context.recipe.data.workers,
        ),
        batch_size=batch_size,
        top_k=config.top_k,
    )
    store = _opened(folder / CACHE, settings, teacher.detector, draws, filling)
    filling.fill(store)
    return CachedTeacher(teacher.detector.spec, store)


def _why_nothing_is_saved(passes: float) -> str:
    most_views = math.ceil(passes) - 1
    advice = "Remove teacher_cache"
    if most_views > 0:
        advice += f", or set its views to at most {most_views}, fewer than the passes of this stage"
    return (
        "Teacher cache: no view comes twice, so that nothing is saved: the stage makes "
        f"{passes:.3g} passes over the images. {advice}."
    )


def remove_cache(folder: Path) -> None:
    """Delete the cache of a stage that is done, if it is there still.

    Args:
        folder: Of the stage.
    """
    if (folder / CACHE).exists():
        artefacts.remove_folder(folder / CACHE)


def _boxes_fingerprint(streams: Sequence[tuple[Stream, int]]) -> str:
    boxes = [sample.targets.boxes for stream, _ in streams for sample in stream.samples]
    counts = [len(one) for one in boxes]
    numbers = torch.cat(boxes).to(torch.float32).numpy().tobytes()
    return artefacts.fingerprint_bytes(repr(counts).encode() + numbers)


def _opened(
    folder: Path,
    settings: dict[str, Any],
    teacher: Detector,
    draws: Sequence[Draw],
    filling: CacheFilling,
) -> DenseStore:
    """Return the store, which the first process begins, or refuses; the others write nothing."""
    view_ids = [draw.view_id for draw in draws]

    def begin() -> Manifest:
        for place in (folder, folder / "shards"):
            artefacts.remove_partial(place)
        store = DenseStore.create_or_resume(
            folder,
            settings=settings,
            classes=teacher.spec.classes,
            view_ids=view_ids,
            shard_size=lambda: _shard_size(filling.layout.view_bytes),
        )
        if store.layout is None:
            store.write_layout(filling.layout)
        return store.manifest

    # The manifest is told and not read: a file may be seen later by another machine.
    return DenseStore(folder, on_first(begin), view_ids)


def _shard_size(view_bytes: int) -> int:
    return max(1, min(SHARD_SIZE, SHARD_BYTES // view_bytes))

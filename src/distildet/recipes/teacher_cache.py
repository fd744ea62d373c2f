"""The teacher's predictions of the views of a stage: stored once, then read at every step."""

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distildet import artefacts
from distildet.data.fixed_views import fixed_views, view_batches
from distildet.data.loader import Draw, Stream
from distildet.data.transforms import Augmentation
from distildet.detectors.base import Detector
from distildet.errors import ConfigError, ResourceError
from distildet.losses.base import LOSSES
from distildet.ops.processes import from_first, gather, own_share, rank, wait_for_all
from distildet.pseudolabels.cached_teacher import CACHED_PARTS, CachedTeacher
from distildet.pseudolabels.dense_codes import DenseLayout, encode_dense, layout_of
from distildet.pseudolabels.dense_store import DenseStore
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.recipes.run_context import RunContext
from distildet.structures import DENSE, ImageBatch

CACHE = "teacher-cache"
SHARD_SIZE = 64
"""Views a shard: what a kill can cost is at most this many forward passes."""

# Batches of views by their places among all views -> the batches.
_Batches = Callable[[Sequence[range]], Iterator[ImageBatch]]


def refuse_uncached(loss: str) -> None:
    """Make sure that a loss needs nothing of the teacher but what is stored.

    Args:
        loss: A registered name.

    Raises:
        ConfigError: It needs more.
    """
    more = LOSSES.get(loss).needs.teacher - CACHED_PARTS
    if more:
        fitting = [n for n in LOSSES.names() if LOSSES.get(n).needs.teacher <= CACHED_PARTS]
        raise ConfigError(
            f"teacher_cache keeps nothing of the teacher but its part {', '.join(CACHED_PARTS)!r}, "
            f"and the loss {loss!r} needs its {', '.join(sorted(more))}. Remove teacher_cache, or "
            f"take a loss that needs no more: {', '.join(fitting) or 'there is none yet'}."
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
) -> CachedTeacher:
    """Return the teacher of a stage after storing what it says about every view of it.

    A rerun goes on with the first shard that is missing. Several processes share the shards out;
    they must see the same folder.

    Args:
        context: Of the run.
        config: How much is stored.
        streams: Of the stage, each with the number of its images in a batch.
        folder: Of the stage.
        seed: Of this run.
        steps: Optimiser steps of the stage.
        augmentation: How far views vary.
        batch_size: Views the teacher sees at once.

    Raises:
        DataError: An image cannot be decoded, or the teacher returns numbers that are not finite.
        ResourceError: The disk is too small for the whole, or was filled by somebody else; what
            was complete is intact.
        StoreError: The folder holds the cache of another teacher or setting.
    """
    teacher = context.teachers[0]
    draws = fixed_views(streams, seed=seed, steps=steps, num_views=config.views)
    image_size = context.recipe.data.image_size
    settings = {
        "teacher": teacher.fingerprint,
        "image_size": image_size,
        "augmentation": None if augmentation is None else vars(augmentation),
        "seed": seed,
        "views": config.views,
        "top_k": config.top_k,
        # Views are cut around the boxes.
        "boxes_fingerprint": _boxes_fingerprint(streams),
    }
    store = _opened(folder / CACHE, settings, teacher.detector, draws)
    missing = _missing(store)
    # Asked of the first process alone, which would soon change the answer for the others.
    if from_first(bool(missing) or store.layout is None):
        _fill(
            context,
            store,
            missing,
            lambda places: view_batches(
                [[draws[place] for place in part] for part in places],
                image_size=image_size,
                augmentation=augmentation,
                workers=context.recipe.data.workers,
            ),
            batch_size=batch_size,
            top_k=config.top_k,
        )
    return CachedTeacher(teacher.detector.spec, store)


def remove_cache(folder: Path) -> None:
    """Delete the cache of a stage that is done, if it is there still.

    Args:
        folder: Of the stage.
    """
    if rank() == 0 and (folder / CACHE).exists():
        artefacts.remove_folder(folder / CACHE)


def _boxes_fingerprint(streams: Sequence[tuple[Stream, int]]) -> str:
    boxes = [sample.targets.boxes for stream, _ in streams for sample in stream.samples]
    counts = [len(one) for one in boxes]
    numbers = torch.cat(boxes).to(torch.float32).numpy().tobytes()
    return artefacts.fingerprint_bytes(repr(counts).encode() + numbers)


def _opened(
    folder: Path, settings: dict[str, Any], teacher: Detector, draws: Sequence[Draw]
) -> DenseStore:
    """Return the store, which the first process begins or refuses before others look at it."""
    if rank() == 0:
        for place in (folder, folder / "shards"):
            artefacts.remove_partial(place)
    else:
        wait_for_all()
    store = DenseStore(
        folder,
        settings=settings,
        classes=teacher.spec.classes,
        view_ids=[draw.view_id for draw in draws],
        shard_size=SHARD_SIZE,
    )
    if rank() == 0:
        wait_for_all()
    return store


def _missing(store: DenseStore) -> list[int]:
    """Return the missing shards of all; each process verifies its share."""
    found = gather(store.missing_shards(own_share(range(store.num_shards))))
    return sorted(index for part in found for index in part)


def _fill(
    context: RunContext,
    store: DenseStore,
    missing: Sequence[int],
    batches: _Batches,
    *,
    batch_size: int,
    top_k: int,
) -> None:
    # A copy: the original must not be moved, see `train_stage`.
    detector = copy.deepcopy(context.teachers[0].detector).eval().to(context.device)
    detector = detector.to(memory_format=torch.channels_last)
    layout = _layout(detector, store, batches, context.device, top_k)
    _tell_size(context, store, missing, layout.view_bytes)
    # Batches never span shards: which views the teacher sees together does not depend on where an
    # earlier call stopped.
    parts = {index: _parts(store.views_of(index), batch_size) for index in own_share(missing)}
    total = sum(len(part) for split in parts.values() for part in split)
    loaded = batches([part for split in parts.values() for part in split])
    done = 0
    for index, split in parts.items():
        stored = []
        for batch in itertools.islice(loaded, len(split)):
            context.interruption.raise_if_requested()
            stored += _predicted(detector, batch, context.device, top_k)
            done += len(batch)
            context.progress.advance(context.work(store.folder), done, total)
        columns = {name: torch.cat([part[name] for part in stored]) for name in stored[0]}
        store.write_shard(index, columns)
    wait_for_all()


def _parts(places: range, size: int) -> list[range]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _layout(
    detector: Detector, store: DenseStore, batches: _Batches, device: torch.device, top_k: int
) -> DenseLayout:
    """Return what all predictions have in common; the first process writes it where it is new."""
    layout = store.layout
    if layout is None:
        # Every process finds it out for itself: it does not depend on the images.
        batch = next(batches([range(1)]))
        with torch.inference_mode():
            layout = layout_of(detector(batch.to(device), want={DENSE}).dense, top_k)
        if rank() == 0:
            store.write_layout(layout)
    return layout


def _tell_size(
    context: RunContext, store: DenseStore, missing: Sequence[int], view_bytes: int
) -> None:
    """Say what the cache will take.

    Raises:
        ResourceError: The disk has less.
    """
    needed = view_bytes * sum(len(store.views_of(index)) for index in missing)
    free = from_first(shutil.disk_usage(store.folder).free)
    if needed > free:
        raise ResourceError(
            f"{store.folder}: the teacher's predictions of {store.num_views} views will take "
            f"{_gigabytes(needed)} GB more, and {_gigabytes(free)} GB of the disk are free. Free "
            "some space and run the same command again; or choose another --out, fewer "
            "teacher_cache.views, a teacher_cache.top_k such as 1000, or no cache."
        )
    context.progress.message(
        f"Teacher cache: {store.num_views} views of {view_bytes / 1e6:.3g} MB each take "
        f"{_gigabytes(view_bytes * store.num_views)} GB in {store.folder} until the stage is done."
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g}"


def _predicted(
    detector: Detector, batch: ImageBatch, device: torch.device, top_k: int
) -> list[dict[str, Tensor]]:
    """Return what is stored of a batch, in parts that fit into the memory.

    Raises:
        ResourceError: The memory is too small for a single image.
    """
    try:
        with torch.inference_mode():
            dense = detector(batch.to(device), want={DENSE}).dense
            return [encode_dense(dense, batch.image_ids, top_k=top_k)]
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            height, width = batch.pixels.shape[2:]
            raise ResourceError(
                f"The memory of {device} is too small for the teacher to see the image "
                f"{batch.image_ids[0]} at {height}x{width} pixels. Free memory, or use a smaller "
                "image size."
            ) from error
    torch.cuda.empty_cache()
    half = len(batch) // 2
    parts = (batch.part(0, half), batch.part(half, len(batch)))
    return [one for part in parts for one in _predicted(detector, part, device, top_k)]

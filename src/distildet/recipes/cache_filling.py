"""Fills the store of a teacher's predictions, shard by shard, by one process or several."""

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from distildet.detectors.base import Detector
from distildet.errors import ResourceError
from distildet.ops.precision import network_precision
from distildet.ops.shared_work import on_first, share_out
from distildet.pseudolabels.dense_codes import encode_dense, layout_of
from distildet.pseudolabels.dense_store import DenseStore
from distildet.recipes.run_context import RunContext
from distildet.structures import DENSE, DensePrediction, ImageBatch

Batches = Callable[[Sequence[range]], Iterator[ImageBatch]]
"""Batches of views, each by the places of its views among all of the store -> their images."""


def fill_cache(
    context: RunContext,
    store: DenseStore,
    batches: Batches,
    *,
    batch_size: int,
    top_k: int,
) -> None:
    """Compute and store what is missing; each process its share of the missing shards.

    A shard is written whole, so that a kill costs at most one a process. Batches never span
    shards: which views the teacher sees together does not depend on where an earlier call stopped.

    Args:
        context: Of the run; its first teacher speaks.
        store: Of exactly this work.
        batches: Gives views.
        batch_size: Views the teacher sees at once.
        top_k: Logits kept of a view; 0 keeps all.

    Raises:
        DataError: An image cannot be decoded, or the teacher returns numbers that are not finite.
        ResourceError: The disk is too small for all that is missing, or the memory for one image.
    """
    missing = _missing_shards(store)
    # Asked of the first process, which will soon write it and so change the answer for the others.
    has_layout = on_first(lambda: store.layout is not None)
    if has_layout and not missing:
        return
    detector = _on_device(context.teachers[0].detector, context.device)
    if not has_layout:
        # It does not depend on the images, so that every process may look at the same one.
        layout = layout_of(_dense(detector, next(batches([range(1)])), context), top_k)
        on_first(lambda: store.write_layout(layout))
    on_first(lambda: _tell_size(context, store, missing))

    def write_shards(own: Sequence[int]) -> Iterator[int]:
        parts = {index: _split(store.views_of(index), batch_size) for index in own}
        # One loader for all, so that its workers go on while a shard is written.
        loaded = batches([places for split in parts.values() for places in split])
        progress = _Progress(context, store, own)
        for index, split in parts.items():
            stored = []
            for batch in itertools.islice(loaded, len(split)):
                context.interruption.raise_if_requested()
                stored += _encoded(detector, batch, context, top_k)
                progress.advance(len(batch))
            columns = {name: torch.cat([part[name] for part in stored]) for name in stored[0]}
            store.write_shard(index, columns)
            yield index

    _, error = share_out(missing, write_shards)
    if error is not None:
        raise error


def _missing_shards(store: DenseStore) -> list[int]:
    """Return the shards to be made; each process looks at its share of all."""
    whole, _ = share_out(range(store.num_shards), lambda own: map(store.has_shard, own))
    return [index for index, is_whole in enumerate(whole) if not is_whole]


def _on_device(detector: Detector, device: torch.device) -> Detector:
    # A copy: the original must stay as other stages expect it, see `train_stage`.
    moved = copy.deepcopy(detector).eval().to(device)
    return moved.to(memory_format=torch.channels_last)


def _split(places: range, size: int) -> list[range]:
    return [places[start : start + size] for start in range(0, len(places), size)]


class _Progress:
    """Tells how much of what this process has to store is done."""

    def __init__(self, context: RunContext, store: DenseStore, shards: Sequence[int]) -> None:
        self._context = context
        self._work = context.work(store.folder)
        self._total = sum(len(store.views_of(index)) for index in shards)
        self._done = 0

    def advance(self, count: int) -> None:
        self._done += count
        self._context.progress.advance(self._work, self._done, self._total)


def _tell_size(context: RunContext, store: DenseStore, missing: Sequence[int]) -> None:
    """Say what the cache takes.

    Raises:
        ResourceError: The disk has less.
    """
    view_bytes = 0 if store.layout is None else store.layout.view_bytes
    needed = view_bytes * sum(len(store.views_of(index)) for index in missing)
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise ResourceError(
            f"{store.folder}: the teacher's predictions of {store.num_views} views need "
            f"{_gigabytes(needed)} GB more, and {_gigabytes(free)} GB of the disk are free. Free "
            "some space and run the same command again; or choose another --out with fewer "
            "teacher_cache.views, a teacher_cache.top_k such as 1000, or without teacher_cache."
        )
    context.progress.message(
        f"Teacher cache: {store.num_views} views of {view_bytes / 1e6:.3g} MB take "
        f"{_gigabytes(view_bytes * store.num_views)} GB in {store.folder} until the stage is done."
    )


def _gigabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g}"


def _dense(detector: Detector, batch: ImageBatch, context: RunContext) -> DensePrediction:
    with torch.inference_mode(), network_precision(context.device, context.precision):
        dense: DensePrediction = detector(batch.to(context.device), want={DENSE}).dense
    return dense


def _encoded(
    detector: Detector, batch: ImageBatch, context: RunContext, top_k: int
) -> list[dict[str, Tensor]]:
    """Return what is stored of a batch, in parts that fit into the memory.

    Raises:
        ResourceError: The memory is too small for a single image.
    """
    try:
        dense = _dense(detector, batch, context)
        return [encode_dense(dense, batch.image_ids, top_k=top_k)]
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            height, width = batch.pixels.shape[2:]
            raise ResourceError(
                f"The memory of {context.device} is too small for the teacher to see the image "
                f"{batch.image_ids[0]} at {height}x{width} pixels. Free memory, or use a smaller "
                "image size."
            ) from error
    torch.cuda.empty_cache()
    half = len(batch) // 2
    parts = (batch.part(0, half), batch.part(half, len(batch)))
    return [one for part in parts for one in _encoded(detector, part, context, top_k)]

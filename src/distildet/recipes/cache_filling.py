"""Fills the store of a teacher's predictions, shard by shard, by one process or several."""

import copy
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from distildet.data.workers import Batch
from distildet.detectors.base import Detector
from distildet.errors import ResourceError
from distildet.ops.fitting import in_fitting_parts
from distildet.ops.placement import placed_on
from distildet.ops.precision import network_precision
from distildet.ops.shared_work import on_first, share_out
from distildet.pseudolabels.dense_codes import DenseLayout, encode_dense, layout_of
from distildet.pseudolabels.dense_store import DenseStore
from distildet.recipes.run_context import RunContext
from distildet.structures import DENSE, DensePrediction, ImageBatch

Batches = Callable[[Sequence[range]], Iterator[Batch]]
"""Batches of views, each by the places of its views among all of the store -> what they show."""

SHARDS_CHECKED_AT_ONCE = 8
"""Shards after which processes that look for missing ones tell each other how they fare."""


class CacheFilling:
    """Shows a teacher the views of a stage, and stores what it says.

    Args:
        context: Of the run.
        teacher: Whose predictions they are; it stays as it is.
        batches: Gives views.
        batch_size: Views the teacher sees at once.
        top_k: Logits kept of a view; 0 keeps all.
    """

    def __init__(
        self,
        context: RunContext,
        teacher: Detector,
        batches: Batches,
        *,
        batch_size: int,
        top_k: int,
    ) -> None:
        self._context = context
        self._teacher = teacher
        self._batches = batches
        self._batch_size = batch_size
        self._top_k = top_k

    @cached_property
    def layout(self) -> DenseLayout:
        """What all views have in common; found by showing the first one to the teacher.

        Raises:
            ConfigError: Only a part of the logits of a softmax shall be kept.
            DataError: The image cannot be decoded.
            ResourceError: The memory is too small for one image.
        """
        layouts = in_fitting_parts(
            lambda batch: layout_of(self._dense(batch), self._top_k), self._context.device
        )
        return layouts(next(self._batches([range(1)]))[0])[0]

    def fill(self, store: DenseStore) -> None:
        """Compute and store what is missing; each process its share of the missing shards.

        A shard is written whole, so that a kill costs at most one a process. Batches never span
        shards: which views the teacher sees together does not depend on where an earlier call
        stopped. After each of its shards a process hears whether another had an error or a signal.

        Args:
            store: Of exactly this work, with its layout.

        Raises:
            DataError: An image cannot be decoded, or the teacher returns numbers that are not
                finite.
            ResourceError: The disk is too small for all that is missing, or the memory for one
                image.
            InterruptedRunError: A signal has arrived in any process.
        """
        missing = self._missing_shards(store)
        if not missing:
            return
        on_first(lambda: _tell_size(self._context, store, missing))
        _, error = share_out(missing, lambda own: self._write_shards(store, own), at_once=1)
        if error is not None:
            raise error

    def _missing_shards(self, store: DenseStore) -> list[int]:
        """Return the shards to be made; each process reads its share of all."""
        work = f"{self._context.work(store.folder)}: checking"

        def check(own: Sequence[int]) -> Iterator[bool]:
            for count, index in enumerate(own, start=1):
                self._context.interruption.raise_if_requested()
                is_whole = store.has_shard(index)
                if is_whole:
                    self._context.progress.advance(work, count, len(own))
                yield is_whole

        shards = range(store.num_shards)
        whole, error = share_out(shards, check, at_once=SHARDS_CHECKED_AT_ONCE)
        if error is not None:
            raise error
        return [index for index, is_whole in zip(shards, whole, strict=True) if not is_whole]

    def _write_shards(self, store: DenseStore, own: Sequence[int]) -> Iterator[int]:
        plan = {index: _split(store.views_of(index), self._batch_size) for index in own}
        # One loader for all, so that its workers go on while a shard is written.
        loaded = self._batches([places for split in plan.values() for places in split])
        progress = _Progress(self._context, store, own)
        encode = in_fitting_parts(self._encoded, self._context.device)
        for index, split in plan.items():
            encoded: list[dict[str, Tensor]] = []
            for batch, _ in itertools.islice(loaded, len(split)):
                self._context.interruption.raise_if_requested()
                encoded += encode(batch)
                progress.advance(len(batch))
            store.write_shard(index, _columns(encoded))
            yield index

    @cached_property
    def _detector(self) -> Detector:
        # A copy: the original must stay as other stages expect it, see `train_stage`.
        return placed_on(copy.deepcopy(self._teacher).eval(), self._context.device)

    @torch.inference_mode()
    def _dense(self, batch: ImageBatch) -> DensePrediction:
        device = self._context.device
        with network_precision(device, self._context.precision):
            dense: DensePrediction = self._detector(batch.to(device), want={DENSE}).dense
        return dense

    def _encoded(self, batch: ImageBatch) -> dict[str, Tensor]:
        return encode_dense(self._dense(batch), batch.image_ids, top_k=self._top_k)


def _split(places: range, size: int) -> list[range]:
    return [places[start : start + size] for start in range(0, len(places), size)]


def _columns(encoded: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Join batches into the columns of a shard, and empty them: a shard may fill the memory."""
    return {name: torch.cat([part.pop(name) for part in encoded]) for name in list(encoded[0])}


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

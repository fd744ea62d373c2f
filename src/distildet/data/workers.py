"""Computes batches step by step, in worker processes or in this one."""

import atexit
import multiprocessing
import os
import signal
from collections.abc import Iterator
from functools import cache, partial
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from distildet.errors import DistildetError, ResourceError
from distildet.structures import ImageBatch, Origin, Targets

Batch: TypeAlias = tuple[ImageBatch, tuple[Targets, ...]]
"""The images of one step and what each of them teaches."""


class Packed(NamedTuple):
    """A batch on its way from a worker process.

    Every tensor sent costs a file descriptor and some 0.1 ms; a batch of 16 images with targets
    has 84 tensors. As arrays, all but the pixels travel in the message itself.
    """

    pixels: Tensor
    arrays: dict[str, np.ndarray[Any, Any]]
    image_ids: tuple[str, ...]
    view_ids: tuple[str, ...]
    targets: tuple[tuple[dict[str, np.ndarray[Any, Any]], Origin], ...]


_BATCH_FIELDS = ("sizes", "image_sizes", "image_to_batch")
_TARGET_FIELDS = ("boxes", "labels", "weights", "ignore", "known_classes", "scores")


def pack(batch: Batch) -> Packed:
    """Make a batch ready to travel."""
    images, targets = batch
    return Packed(
        images.pixels,
        {name: getattr(images, name).numpy() for name in _BATCH_FIELDS},
        images.image_ids,
        images.view_ids,
        tuple(
            (
                {
                    name: tensor.numpy()
                    for name in _TARGET_FIELDS
                    if (tensor := getattr(one, name)) is not None
                },
                one.origin,
            )
            for one in targets
        ),
    )


def _unpack(packed: Packed) -> Batch:
    arrays = {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
    images = ImageBatch(
        pixels=packed.pixels,
        # The loader gives tuples back as lists where it pins memory.
        image_ids=tuple(packed.image_ids),
        view_ids=tuple(packed.view_ids),
        **arrays,
    )
    targets = tuple(
        Targets(origin=origin, **{name: torch.from_numpy(array) for name, array in fields.items()})
        for fields, origin in packed.targets
    )
    return images, targets


def load_steps(steps: TorchDataset[Any], chosen: range, workers: int) -> Iterator[Batch]:
    """Compute the batches of some steps in order.

    Args:
        steps: Step -> packed batch, or the error that stands in its way; a pure function.
        chosen: The steps.
        workers: Number of processes; 0 computes in this one.

    Raises:
        DistildetError: What a step returned instead of a batch.
        ResourceError: A worker process died.
    """
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=chosen,
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=partial(_start_worker, _program_ends()) if workers else None,
        # Of its own, or the loader would draw from the global generator.
        generator=torch.Generator(),
        # A GPU takes pixels faster from memory that cannot be paged out. Where this process uses
        # none, asking for it would begin to.
        pin_memory=torch.cuda.is_initialized(),  # type: ignore[no-untyped-call] # torch has no type
    )
    loaded = iter(loader)
    try:
        while (packed := _next(loaded)) is not None:
            if isinstance(packed, DistildetError):
                raise packed
            yield _unpack(packed)
    finally:
        # The workers end with the iterator. An error holds on to this frame, and with it to the
        # iterator, for as long as somebody looks at the error.
        del loaded


def _next(loaded: Iterator[Any]) -> Any:
    """Return what the next step gave, or None after the last one."""
    try:
        return next(loaded, None)
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A worker that dies while it hands over a batch shows as a broken connection.
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        raise ResourceError(
            f"A process that decodes images died ({error}). The machine probably ran out of "
            "memory. Run the same command again to continue, perhaps with fewer workers."
        ) from error


@cache
def _program_ends() -> Event:
    """Return the event that tells workers that this program ends."""
    ends = multiprocessing.Event()
    # Set before multiprocessing, at exit, sends SIGTERM to workers and waits for their end.
    atexit.register(ends.set)
    return ends


def _unchanged(packed: Any) -> Any:
    return packed


def _start_worker(program_ends: Event, _worker: int) -> None:
    # One thread each: several processes with all threads would get into each other's way.
    torch.set_num_threads(1)

    def end_with_the_program(_signal: int, _frame: Any) -> None:
        if program_ends.is_set():
            os._exit(0)

    # Both reach the whole group from a terminal or a scheduler; the main process ends the step,
    # stores a checkpoint and then ends its workers. Workers whose parent died end by themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_with_the_program)

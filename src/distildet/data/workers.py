"""Computes batches step by step, in worker processes or in this one."""

import signal
from collections.abc import Iterator
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
    targets: tuple[tuple[dict[str, np.ndarray[Any, Any]], Origin], ...]


_BATCH_FIELDS = ("sizes", "image_sizes", "image_to_batch")
_TARGET_FIELDS = ("boxes", "labels", "weights", "ignore", "known_classes")


def pack(batch: Batch) -> Packed:
    """Make a batch ready to travel."""
    images, targets = batch
    return Packed(
        images.pixels,
        {name: getattr(images, name).numpy() for name in _BATCH_FIELDS},
        images.image_ids,
        tuple(
            ({name: getattr(one, name).numpy() for name in _TARGET_FIELDS}, one.origin)
            for one in targets
        ),
    )


def _unpack(packed: Packed) -> Batch:
    arrays = {name: torch.from_numpy(array) for name, array in packed.arrays.items()}
    images = ImageBatch(pixels=packed.pixels, image_ids=packed.image_ids, **arrays)
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
        worker_init_fn=_start_worker,
        # Of its own, or the loader would draw from the global generator.
        generator=torch.Generator(),
    )
    loaded = iter(loader)
    while True:
        try:
            packed = next(loaded)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError, EOFError) as error:
            # A worker that dies while it hands over a batch shows as a broken connection.
            if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
                raise
            raise ResourceError(
                f"A process that decodes images died ({error}). The machine probably ran out of "
                "memory. Run the same command again to continue, perhaps with fewer workers."
            ) from error
        if isinstance(packed, DistildetError):
            raise packed
        yield _unpack(packed)


def _unchanged(packed: Any) -> Any:
    return packed


def _start_worker(_worker: int) -> None:
    # One thread each: several processes with all threads would get into each other's way.
    torch.set_num_threads(1)
    # Both reach the whole group from a terminal or a scheduler; the main process ends the step,
    # stores a checkpoint and then ends its workers. Workers whose parent died end by themselves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)

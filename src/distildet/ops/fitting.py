"""Batches that are computed in as many parts as the memory of a device asks for."""

from collections.abc import Callable
from typing import TypeVar

import torch

from distildet.errors import ResourceError
from distildet.ops.out_of_memory import is_out_of_memory, release_cached_memory
from distildet.structures import ImageBatch

Value = TypeVar("Value")


def in_fitting_parts(
    compute: Callable[[ImageBatch], Value], device: torch.device
) -> Callable[[ImageBatch], list[Value]]:
    """Return a function that computes a batch, in parts where memory runs out otherwise.

    It goes on with half as many images at once, on the same padded canvas, and keeps to that
    number in later calls.

    Args:
        compute: Of a batch or any part of it; must be able to begin anew.
        device: Where to, for the message.

    Returns:
        A function from a batch to the values of its parts, in order. It raises a ResourceError if
        the memory is too small for a single image.
    """
    most: int | None = None

    def compute_parts(batch: ImageBatch) -> list[Value]:
        nonlocal most
        values: list[Value] = []
        start = 0
        while start < len(batch):
            part = batch.part(start, len(batch) if most is None else start + most)
            try:
                values.append(compute(part))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise _too_small(part, device) from error
                most = len(part) // 2
            else:
                start += len(part)
                continue
            # Here, since the error holds all that was computed so far.
            release_cached_memory()
        return values

    return compute_parts


def _too_small(image: ImageBatch, device: torch.device) -> ResourceError:
    height, width = image.pixels.shape[2:]
    return ResourceError(
        f"The memory of {device} is too small for the image {image.image_ids[0]} at "
        f"{height}x{width} pixels. Free memory, or use a smaller image size."
    )

"""Keeps the decoded images of a train stage in memory, where the recipe asks for it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from distildet.data.loader import Stream
from distildet.data.pixel_cache import PixelCache
from distildet.data.transforms import Augmentation


def keep_decoded(
    streams: Sequence[tuple[Stream, int]], *, image_size: int, augmentation: Augmentation | None
) -> tuple[list[tuple[Stream, int]], str]:
    """Let all views of an image come from one decoding of it.

    Args:
        streams: Each with the number of its images in a batch.
        image_size: Largest side of a view.
        augmentation: How far views vary; the largest zoom decides how large images are kept.

    Returns:
        The streams, whose images are decoded when they are first shown, and one line that says
        how much memory they take.

    Raises:
        DataError: The header of an image cannot be read.
        ResourceError: There is not enough free memory.
    """
    zoom = 1.0 if augmentation is None else augmentation.zoom[1]
    cache = PixelCache(
        (one.sample.path for stream, _ in streams for one in stream.samples),
        longest=math.ceil(image_size * zoom),
    )
    kept = [
        (
            replace(stream, samples=tuple(replace(one, cache=cache) for one in stream.samples)),
            count,
        )
        for stream, count in streams
    ]
    return kept, (
        f"{len(cache)} images will be kept in {cache.num_bytes / 1e6:.1f} MB of memory (data.cache)"
    )

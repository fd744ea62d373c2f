"""Keeps the decoded images of a run in memory, where the recipe asks for it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from distildet.data.loader import Stream
from distildet.data.pixel_cache import PixelCache, num_local_processes
from distildet.recipes.schema import Recipe, TrainStage


def longest_kept(recipe: Recipe) -> int:
    """Return how large images are kept, so that the views of every stage can be cut from them.

    Returns:
        Longer side in pixels: `data.image_size` times the largest zoom of all train stages.
    """
    zooms = [
        1.0 if stage.augmentation == "none" else stage.augmentation.zoom[1]
        for stage in recipe.stages
        if isinstance(stage, TrainStage)
    ]
    return math.ceil(recipe.data.image_size * max(zooms, default=1.0))


def keep_decoded(
    streams: Sequence[tuple[Stream, int]], cache: PixelCache
) -> tuple[list[tuple[Stream, int]], str | None]:
    """Let all views of an image come from one decoding of it.

    Args:
        streams: Of a stage, each with the number of its images in a batch.
        cache: Of the run. What earlier stages have decoded is there; what is new is added.

    Returns:
        The streams, whose images are decoded when they are first shown, and one line that says
        how much memory the new ones take, if there are any.

    Raises:
        DataError: The header of an image cannot be read.
        ResourceError: There is not enough free memory.
    """
    num_images, num_bytes = len(cache), cache.num_bytes
    cache.add(one.sample.path for stream, _ in streams for one in stream.samples)
    kept = [
        (
            replace(stream, samples=tuple(replace(one, cache=cache) for one in stream.samples)),
            count,
        )
        for stream, count in streams
    ]
    return kept, _told(len(cache) - num_images, cache.num_bytes - num_bytes, is_more=num_images > 0)


def _told(num_images: int, num_bytes: int, *, is_more: bool) -> str | None:
    if num_images == 0:
        return None
    more = "more " if is_more else ""
    local = num_local_processes()
    whose = f" by each of the {local} processes of this machine" if local > 1 else ""
    return (
        f"{num_images} {more}images will be kept in {num_bytes / 1e6:.1f} MB of memory{whose} "
        "(data.cache)"
    )

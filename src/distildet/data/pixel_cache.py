"""Decoded images in memory, shared by the processes that load them."""

import os
from collections.abc import Iterable
from multiprocessing import Array, RawArray
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from distildet.data.free_memory import free_bytes, free_shared_bytes
from distildet.data.headers import probe_size
from distildet.data.image_file import Picture, open_image
from distildet.errors import ResourceError
from distildet.ops.processes import gather, num_processes
from distildet.ops.shared_work import share_out

# Any, since torchvision does not declare which of these names are public.
_KERNELS: Any = functional


class _Place(NamedTuple):
    """Where a picture is kept."""

    block: "_Block"
    number: int
    start: int
    size: tuple[int, int]
    kept_size: tuple[int, int]


class _Block:
    """Memory for the pictures that were added together."""

    def __init__(self, num_images: int, num_bytes: int) -> None:
        self.pixels = RawArray("B", num_bytes)
        self.geometry = RawArray("d", 4 * num_images)
        # With a lock, so that who sees that a picture is there sees the picture.
        self.is_there = Array("b", num_images)


class PixelCache:
    """Images that are decoded once and then kept, no larger than views need them.

    A picture is the same whether it comes from memory or, the first time, from its file; so views
    are the same for any number of worker processes and after an interruption. Worker processes
    that are started after images were added share them; each process of a run has a cache of its
    own.

    Args:
        longest: Longer side in pixels to which larger images are scaled down.

    Attributes:
        num_bytes: How much memory the pictures take, in this process.
    """

    def __init__(self, *, longest: int) -> None:
        self._longest = longest
        self._places: dict[Path, _Place] = {}
        self.num_bytes = 0

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._places)

    def add(self, paths: Iterable[Path]) -> None:
        """Take memory for images; those that have some are left alone.

        Every process of a run must come here, with the same images. If one cannot take the
        memory, none does.

        Args:
            paths: The images.

        Raises:
            DataError: The header of an image cannot be read.
            ResourceError: There is not enough free memory.
        """
        new = [path for path in dict.fromkeys(paths) if path not in self._places]
        if not new:
            return
        sizes, error = share_out(new, lambda share: map(probe_size, share))
        if error is not None:
            raise error
        kept_sizes = [_kept_size(size, self._longest) for size in sizes]
        starts = [0]
        for height, width in kept_sizes:
            starts.append(starts[-1] + 3 * height * width)
        _require_room(starts[-1])
        block = _Block(len(new), starts[-1])
        for number, path in enumerate(new):
            self._places[path] = _Place(
                block, number, starts[number], sizes[number], kept_sizes[number]
            )
        self.num_bytes += starts[-1]

    def picture(self, path: Path) -> Picture:
        """Return an image, from memory if it has been asked for before.

        Args:
            path: One of the images that were added.

        Raises:
            DataError: The image cannot be decoded.
        """
        place = self._places[path]
        block = place.block
        height, width = place.kept_size
        kept = np.frombuffer(
            block.pixels, dtype=np.uint8, count=3 * height * width, offset=place.start
        ).reshape(height, width, 3)
        geometry = np.frombuffer(block.geometry, count=4, offset=32 * place.number)
        if not block.is_there[place.number]:
            # Two processes may come here for one image; they write the same.
            shown = _scaled_down(path, place)
            kept[:] = shown.pixels.permute(1, 2, 0).numpy()  # [h, w, c]
            geometry[:] = (*shown.scale, *shown.start)
            block.is_there[place.number] = 1
        scale_y, scale_x, start_y, start_x = geometry.tolist()
        return Picture(
            pixels=torch.from_numpy(kept).permute(2, 0, 1),  # [c, h, w]
            size=place.size,
            scale=(scale_y, scale_x),
            start=(start_y, start_x),
        )


def _kept_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _scaled_down(path: Path, place: _Place) -> Picture:
    with open_image(path) as file:
        picture = file.picture(max(place.kept_size) / max(place.size))
    height, width = picture.pixels.shape[1:]
    factors = (place.kept_size[0] / height, place.kept_size[1] / width)
    scaled: Tensor = _KERNELS.resize(picture.pixels, list(place.kept_size), antialias=True)
    return Picture(
        pixels=scaled,
        size=picture.size,
        scale=(picture.scale[0] * factors[0], picture.scale[1] * factors[1]),
        start=(picture.start[0] * factors[0], picture.start[1] * factors[1]),
    )


def num_local_processes() -> int:
    """Return how many processes of the run are on this machine, as torchrun says; else all."""
    return min(num_processes(), int(os.environ.get("LOCAL_WORLD_SIZE", num_processes())))


def _require_room(num_bytes: int) -> None:
    """Refuse, in all processes of a run or in none."""
    # The gathering is also what makes all measure before one of them takes memory.
    shortages = [found for found in gather(_shortage(num_bytes)) if found is not None]
    if shortages:
        raise ResourceError(shortages[0])


def _shortage(num_bytes: int) -> str | None:
    """Return what stands against a cache in each process of this machine."""
    needed = num_bytes * num_local_processes()
    free, room = free_bytes(), free_shared_bytes()
    if needed > free:
        return (
            f"data.cache: the images need {needed / 1e9:.2f} GB of memory, {free / 1e9:.2f} GB are "
            "free. Set data.cache to none, or make data.image_size or augmentation.zoom smaller."
        )
    if room is not None and needed > room:
        return (
            f"data.cache: the images need {needed / 1e9:.2f} GB of shared memory, /dev/shm has "
            f"{room / 1e9:.2f} GB left. Enlarge it (docker run --shm-size), or set data.cache to "
            "none."
        )
    return None

"""Decoded images in memory, shared by the processes that load them."""

import os
import shutil
from collections.abc import Iterable
from multiprocessing import Array, RawArray
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from distildet.data.decode import probe_size
from distildet.data.image_file import Picture, open_image
from distildet.errors import ResourceError

# Any, since torchvision does not declare which of these names are public.
_KERNELS: Any = functional
_SHARED = Path("/dev/shm")  # noqa: S108 -- where the memory that processes share comes from
_MEMINFO = Path("/proc/meminfo")
# Of a container; absent elsewhere.
_LIMIT = Path("/sys/fs/cgroup/memory.max")


class _Place(NamedTuple):
    """Where a picture is kept."""

    number: int
    start: int
    size: tuple[int, int]
    kept_size: tuple[int, int]


class PixelCache:
    """Images that are decoded once and then kept, no larger than views need them.

    A picture is the same whether it comes from memory or, the first time, from its file; so views
    are the same for any number of worker processes and after an interruption. The processes that
    are started after the cache was made share it.

    Args:
        paths: The images.
        longest: Longer side in pixels to which larger images are scaled down.

    Raises:
        DataError: The header of an image cannot be read.
        ResourceError: There is not enough free memory.
    """

    def __init__(self, paths: Iterable[Path], *, longest: int) -> None:
        self._places: dict[Path, _Place] = {}
        self.num_bytes = 0
        for number, path in enumerate(dict.fromkeys(paths)):
            size = probe_size(path)
            kept_size = _kept_size(size, longest)
            self._places[path] = _Place(number, self.num_bytes, size, kept_size)
            self.num_bytes += 3 * kept_size[0] * kept_size[1]
        _require_room(self.num_bytes)
        self._pixels = RawArray("B", self.num_bytes)
        self._geometry = RawArray("d", 4 * len(self))
        # With a lock, so that who sees that a picture is there sees the picture.
        self._is_there = Array("b", len(self))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._places)

    def picture(self, path: Path) -> Picture:
        """Return an image, from memory if it has been asked for before.

        Args:
            path: One of the images.

        Raises:
            DataError: The image cannot be decoded.
        """
        place = self._places[path]
        height, width = place.kept_size
        kept = np.frombuffer(
            self._pixels, dtype=np.uint8, count=3 * height * width, offset=place.start
        ).reshape(height, width, 3)
        geometry = np.frombuffer(self._geometry, count=4, offset=32 * place.number)
        if not self._is_there[place.number]:
            # Two processes may come here for one image; they write the same.
            shown = _scaled_down(path, place)
            kept[:] = shown.pixels.permute(1, 2, 0).numpy()  # [h, w, c]
            geometry[:] = (*shown.scale, *shown.start)
            self._is_there[place.number] = 1
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


def _require_room(num_bytes: int) -> None:
    # Each of the processes that torchrun starts on this machine has a cache of its own.
    needed = num_bytes * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    free = _free_bytes()
    if needed > free:
        raise ResourceError(
            f"data.cache: the images need {needed / 1e9:.2f} GB of memory, {free / 1e9:.2f} GB are "
            "free. Set data.cache to none, or make data.image_size or augmentation.zoom smaller."
        )
    if _SHARED.is_dir() and needed > (room := shutil.disk_usage(_SHARED).free):
        raise ResourceError(
            f"data.cache: the images need {needed / 1e9:.2f} GB of shared memory, {_SHARED} has "
            f"{room / 1e9:.2f} GB left. Enlarge it (docker run --shm-size), or set data.cache to "
            "none."
        )


def _free_bytes() -> int:
    """Return how much memory is free, as far as the system says; else how much there is."""
    lines = _MEMINFO.read_text().splitlines() if _MEMINFO.is_file() else []
    said = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    free = said[0] if said else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    return free if limit == "max" else min(free, int(limit))

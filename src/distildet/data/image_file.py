"""Decodes image files under one policy.

The header is looked at before any pixel. A damaged file is refused by name, never filled with
grey. What comes out is 8-bit RGB, turned as EXIF says, the first frame of several:

- 16-bit grey is scaled from 0..65535 to 0..255. 32-bit and float grey have no declared range and
  are refused.
- Transparent pixels are composited on black, the colour of the padding.
- Palette, grey, 1-bit and CMYK become RGB. Colour profiles are not applied.
"""

import stat
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from distildet.data.names import one_line
from distildet.data.unfetched import LONGEST_START_BYTES, describe_unfetched
from distildet.errors import DataError

MAX_PIXELS = 2**27
"""Largest width times height that is decoded: 134 million, 400 MB as RGB."""

# The formats of photographs. Others that Pillow knows run foreign programs (EPS) or are exotic.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# The turns after which the top, or the left, is what was stored at the bottom or at the right.
_TOP_WAS_AN_END = frozenset({3, 4, 7, 8})
_LEFT_WAS_AN_END = frozenset({2, 3, 6, 7})
# A draft has at least so many pixels along a side for one of the view, and is scaled from there.
# Grey values then differ by 0.2 to 0.9 of 255 on average from those of a full decoding, a half to
# a third of what one pixel for one gives; more pixels gain little. docs/data.md has the figures.
_DRAFT_PIXELS = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """The pixels of an image, which may be fewer than those of the image frame.

    What is at (y, x) in the image frame is at `start + scale * (y, x)` in the picture.

    Args:
        pixels: [3 h w] uint8 RGB; the memory may be channels-last.
        size: (height, width) of the image frame.
        scale: (vertical, horizontal) pixels of the picture for one of the image frame, 0..1.
        start: (y, x) of the corner of the image frame, in pixels of the picture.
    """

    pixels: Tensor
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    start: tuple[float, float] = (0.0, 0.0)


class ImageFile:
    """An image file of which the header has been read; `open_image` makes it.

    Attributes:
        size: (height, width) after EXIF rotation.
    """

    def __init__(self, path: Path, image: Image.Image) -> None:
        self._path = path
        self._image = image
        self._orientation = _orientation(image)
        width, height = image.size
        self.size = (width, height) if self._orientation > 4 else (height, width)

    @property
    def is_framed(self) -> bool:
        """Whether it is an animation or has several pages."""
        with _faults_named(self._path):
            return bool(getattr(self._image, "is_animated", False))

    def picture(self, scale: float) -> Picture:
        """Decode the image, once, for a view of it; a JPEG at no more than the needed size.

        Args:
            scale: Pixels of the view for one of the image frame.

        Raises:
            DataError: The file is damaged or of a kind without declared range.
        """
        with _faults_named(self._path):
            factor = _draft(self._image, scale)
            self._image.load()
            turn = _TURNS.get(self._orientation)
            upright = self._image if turn is None else self._image.transpose(turn)
            pixels = np.array(_to_rgb(upright, self._path))  # [h, w, c]
        # A draft is rounded up to whole pixels at the right and the bottom of the stored image,
        # which are the left and the top of some turned ones.
        height, width = pixels.shape[:2]
        return Picture(
            pixels=torch.from_numpy(pixels).permute(2, 0, 1),  # [c, h, w]
            size=self.size,
            scale=(factor, factor),
            start=(
                height - self.size[0] * factor if self._orientation in _TOP_WAS_AN_END else 0.0,
                width - self.size[1] * factor if self._orientation in _LEFT_WAS_AN_END else 0.0,
            ),
        )


@contextmanager
def open_image(path: Path) -> Iterator[ImageFile]:
    """Open an image file and read its header.

    Raises:
        DataError: The file is not a readable image or has more than `MAX_PIXELS` pixels.
    """
    _require_regular_file(path)
    with ExitStack() as opened:
        with _faults_named(path):
            image = opened.enter_context(Image.open(path, formats=_FORMATS))
            _refuse_large(path, image.size)
            file = ImageFile(path, image)
        yield file


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """Turn whatever fails inside the block into an error that names the file."""
    try:
        # Pillow warns of large images and odd metadata; the limits here are our own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(_too_large(path, "more")) from error
    except UnidentifiedImageError as error:
        raise DataError(f"{one_line(path)}: {_describe_content(path)}") from error
    except Exception as error:
        # The decoders raise errors of any kind on damaged files.
        raise DataError(
            f"{one_line(path)}: the image is damaged and cannot be decoded ({error}). "
            "Replace the file or remove it from the data set."
        ) from error


def _draft(image: Image.Image, scale: float) -> float:
    """Let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size where a view needs no more.

    Returns:
        Pixels that will be decoded for one stored along a side, 1 for other formats.
    """
    width, height = image.size
    needed = (
        max(1, round(_DRAFT_PIXELS * scale * width)),
        max(1, round(_DRAFT_PIXELS * scale * height)),
    )
    drafted = image.draft(None, needed)
    return 1.0 if drafted is None else drafted[1][2] / width


def _require_regular_file(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"{one_line(path)}: the image cannot be read ({reason}). Check the path."
        ) from error
    if not stat.S_ISREG(mode):
        raise DataError(
            f"{one_line(path)}: found a folder, pipe or device where an image file is expected. "
            "Remove it or give the path of a file."
        )


def _refuse_large(path: Path, size: tuple[int, int]) -> None:
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(_too_large(path, f"{size[0]}x{size[1]} = {size[0] * size[1]}"))


def _too_large(path: Path, found: str) -> str:
    return (
        f"{one_line(path)}: the image has {found} pixels, accepted are at most {MAX_PIXELS} "
        "(MAX_PIXELS). Scale it down or cut it into tiles."
    )


def _describe_content(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(LONGEST_START_BYTES).lstrip()
    if not start:
        return "the file is empty. Copy or download it again."
    unfetched = describe_unfetched(start, "an image")
    if unfetched is not None:
        return unfetched
    if start.startswith((b"II*\0", b"MM\0*")):
        return (
            "the file is a TIFF of a kind that cannot be read, such as 64-bit float. "
            "Save the image with 8 or 16 bits."
        )
    return f"the file is not an image. Accepted formats: {', '.join(_FORMATS)}."


def _orientation(image: Image.Image) -> int:
    # Pillow has turned TIFF by itself. The method of the base class reads only what stands before
    # the pixels; that of PNG would decode them to look for a tag behind.
    if image.format == "TIFF":
        return 1
    return int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        # 257 = 65535 / 255: Pillow's own conversion would clip all above 255 to white.
        grey = np.rint(np.asarray(image, dtype=np.float32) / 257.0).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in {"I", "F"}:
        raise DataError(
            f"{one_line(path)}: found 32-bit grey values (Pillow mode {image.mode!r}), which "
            "have no declared range. Save the image with 8 or 16 bits."
        )
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        black = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, coloured).convert("RGB")
    return image.convert("RGB")

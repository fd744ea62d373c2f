"""Decodes image files under one policy.

The header is looked at before any pixel. A damaged file is refused by name, never filled with
grey. What comes out is 8-bit RGB, turned as EXIF says, the first frame of several:

- 16-bit grey is scaled from 0..65535 to 0..255. 32-bit and float grey have no declared range and
  are refused.
- Transparent pixels are composited on black, the colour of the padding.
- Palette, grey, 1-bit and CMYK become RGB. Colour profiles are not applied.
"""

import math
import stat
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from distildet.data.faults import MAX_EXAMPLES, Faults
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
_NUM_PROBES = 100
# The endings of formats that can hold several pictures.
_FRAMED_SUFFIXES = frozenset({".gif", ".png", ".apng", ".webp", ".tif", ".tiff", ".avif", ".avifs"})


def probe_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image after EXIF rotation, from its header alone.

    Raises:
        DataError: The file is not a readable image or has more than `MAX_PIXELS` pixels.
    """
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) > 4 else (height, width)


def decode_image(path: Path) -> Tensor:
    """Decode an image file.

    Returns:
        [3 h w] uint8 RGB; the memory may be channels-last.

    Raises:
        DataError: The file is missing, damaged, no image, of a kind without declared range, or
            has more than `MAX_PIXELS` pixels; the message names it.
    """
    with _opened(path) as image:
        orientation = _orientation(image)
        image.load()
        upright = image.transpose(_TURNS[orientation]) if orientation in _TURNS else image
        pixels = np.array(_to_rgb(upright, path))  # [h, w, c]
    return torch.from_numpy(pixels).permute(2, 0, 1)  # [c, h, w]


def refuse_other_sizes(source: Path, size_by_path: Mapping[Path, tuple[int, int]]) -> None:
    """Compare the sizes that an annotation file states with those of the images.

    At most 100 images, spread evenly, are looked at: a wrong convention shows in each of them,
    and opening all of a large set at every start would take minutes.

    Args:
        source: The annotation file.
        size_by_path: For each image the stated (height, width).

    Raises:
        DataError: A size differs, so that boxes would be in a wrong place, or one of these images
            cannot be read.
    """
    faults = Faults(source)
    step = max(1, math.ceil(len(size_by_path) / _NUM_PROBES))
    for path, stated in list(size_by_path.items())[::step]:
        try:
            found = probe_size(path)
        except DataError as error:
            faults.add("images must be readable", str(error))
            continue
        if found != stated:
            turned = found == stated[::-1]
            faults.add(
                "the stated width x height must be those of the image turned as its EXIF tag says; "
                "correct the annotations"
                + (", which seem to be for the image as stored" if turned else ""),
                f"{path.name!r} is {found[1]}x{found[0]}, stated {stated[1]}x{stated[0]}",
            )
    faults.raise_if_any()


def note_frames(source: Path, paths: Iterable[Path]) -> tuple[str, ...]:
    """Look for animations and files of several pages, of which only the first picture is taken.

    Args:
        source: What the note is about: the folder or the annotation file.
        paths: Of the images. Headers are read of those whose name ends like a format that can
            hold several pictures; unreadable ones are passed over.

    Returns:
        One line that names the first five such files, or nothing.
    """
    framed = [
        path for path in paths if path.suffix.lower() in _FRAMED_SUFFIXES and _is_framed(path)
    ]
    if not framed:
        return ()
    names = ", ".join(repr(path.name) for path in framed[:MAX_EXAMPLES])
    return (
        f"{one_line(source)}: all frames or pages but the first of {len(framed)} images: {names}"
        + (" ..." if len(framed) > MAX_EXAMPLES else ""),
    )


def _is_framed(path: Path) -> bool:
    try:
        with _opened(path) as image:
            return bool(getattr(image, "is_animated", False))
    except DataError:
        return False


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image, header only; whatever fails inside the block becomes an error with a name."""
    _require_regular_file(path)
    try:
        # Pillow warns of large images and odd metadata; the limits here are our own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as image:
                _refuse_large(path, image.size)
                yield image
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

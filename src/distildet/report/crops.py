"""Objects cut out of their images, side by side."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from distildet.data.decode import decode_image

SIDE = 96
"""Pixels of the longer side of a crop, whatever the size of the object."""
MARGIN = 0.1
"""What is seen around an object on each side, as a share of its box."""
GAP = 4
COLUMNS = 10


def crop_objects(path: Path, boxes: Tensor) -> list[Image.Image]:
    """Cut objects with a margin out of an image file, which is decoded once, and in full.

    Args:
        path: The image file.
        boxes: [n 4] xyxy, pixels of the image frame.

    Returns:
        One an object, its longer side of `SIDE` pixels.

    Raises:
        DataError: The file cannot be decoded.
    """
    image = Image.fromarray(decode_image(path).movedim(0, -1).numpy())  # [h w 3]
    return [_fitted(image.crop(_around(box, image.size))) for box in boxes.tolist()]


def draw_grid(crops: Sequence[Image.Image]) -> bytes:
    """Lay crops out in rows.

    Args:
        crops: As `crop_objects` returns them, at least one.

    Returns:
        A PNG file.
    """
    columns, rows = min(COLUMNS, len(crops)), -(-len(crops) // COLUMNS)
    step = SIDE + GAP
    grid = Image.new("RGB", (columns * step + GAP, rows * step + GAP), "white")
    for place, crop in enumerate(crops):
        row, column = divmod(place, COLUMNS)
        left, top = (GAP + number * step for number in (column, row))
        grid.paste(crop, (left + (SIDE - crop.width) // 2, top + (SIDE - crop.height) // 2))
    buffer = io.BytesIO()
    grid.save(buffer, "PNG")
    return buffer.getvalue()


def _around(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the whole pixels of a box with its margin, as far as the image goes."""
    x1, y1, x2, y2 = box
    beside, above = MARGIN * (x2 - x1), MARGIN * (y2 - y1)
    return (
        max(0, math.floor(x1 - beside)),
        max(0, math.floor(y1 - above)),
        min(size[0], math.ceil(x2 + beside)),
        min(size[1], math.ceil(y2 + above)),
    )


def _fitted(crop: Image.Image) -> Image.Image:
    scale = SIDE / max(crop.size)
    width, height = (max(1, round(scale * side)) for side in crop.size)
    return crop.resize((width, height))

"""Decodes image files in full; training and labeling decode what their views need."""

from pathlib import Path

from torch import Tensor

from distildet.data.image_file import open_image


def decode_image(path: Path) -> Tensor:
    """Decode an image file in full.

    Returns:
        [3 h w] uint8 RGB; the memory may be channels-last.

    Raises:
        DataError: The file is missing, damaged, no image, of a kind without declared range, or
            has more than `MAX_PIXELS` pixels; the message names it.
    """
    with open_image(path) as file:
        return file.picture(scale=1.0).pixels

"""Ways to spoil one object of an image."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

Half = Literal["left", "right"]
Spoil = Callable[[Tensor, Tensor, Half], tuple[Tensor, Tensor]]
"""Image [3 h w], box [4] xyxy and which half of it is meant -> image and box."""

STRENGTHS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
HALF_COVERED = "half covered"
MIRRORED, DARKER = "mirrored", "darker"
HARMLESS = (MIRRORED, DARKER)
"""Ways that spoil nothing: students see such views in training."""
DARKENING = 0.9


def touched_pixels(image: Tensor, box: Tensor) -> tuple[slice, slice]:
    """Return the rows and columns of all pixels that a box touches.

    Args:
        image: [3 h w].
        box: [4] xyxy.
    """
    left, top, right, bottom = box.tolist()
    return (
        slice(max(0, math.floor(top)), min(image.shape[1], math.ceil(bottom))),
        slice(max(0, math.floor(left)), min(image.shape[2], math.ceil(right))),
    )


def blurred(image: Tensor, box: Tensor, *, strength: float) -> Tensor:
    """Return the image with the pixels of a box blurred, as a lens out of focus would.

    Args:
        image: [3 h w].
        box: [4] xyxy.
        strength: Standard deviation of the Gaussian, as a share of the root of the box's area. It
            is cut off after three of them; beyond its borders the image goes on as at the border.
    """
    sides = box[2:] - box[:2]
    sigma = strength * math.sqrt(float(sides.prod()))
    reach = max(1, round(3 * sigma))
    soft = F.pad(image, (reach, reach, reach, reach), mode="replicate")
    for kernel in ([1, 2 * reach + 1], [2 * reach + 1, 1]):
        soft = gaussian_blur(soft, kernel, [sigma, sigma])
    rows, columns = touched_pixels(image, box)
    spoiled = image.clone()
    spoiled[:, rows, columns] = soft[:, reach:-reach, reach:-reach][:, rows, columns]
    return spoiled


def half_covered(image: Tensor, box: Tensor, half: Half) -> Tensor:
    """Return the image with half of a box in the mean colour of the image.

    Args:
        image: [3 h w].
        box: [4] xyxy.
        half: Of an odd number of columns that in the middle belongs to both halves.
    """
    rows, columns = touched_pixels(image, box)
    middle = (columns.start + columns.stop) / 2
    covered = {
        "left": slice(columns.start, math.ceil(middle)),
        "right": slice(math.floor(middle), columns.stop),
    }
    spoiled = image.clone()
    spoiled[:, rows, covered[half]] = image.mean((1, 2))[:, None, None]
    return spoiled


def mirrored(image: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Return image and box seen in a mirror, which spoils nothing.

    Args:
        image: [3 h w].
        box: [4] xyxy.
    """
    left, top, right, bottom = box.unbind()
    width = image.shape[2]
    return image.flip(2), torch.stack([width - right, top, width - left, bottom])


def spoilings() -> dict[str, Spoil]:
    """Return every way by its name, the harmless ones last."""
    return {
        **{f"blur {strength:g}": partial(_blur, strength=strength) for strength in STRENGTHS},
        HALF_COVERED: lambda image, box, half: (half_covered(image, box, half), box),
        MIRRORED: lambda image, box, _: mirrored(image, box),
        DARKER: lambda image, box, _: (DARKENING * image, box),
    }


def _blur(image: Tensor, box: Tensor, _: Half, *, strength: float) -> tuple[Tensor, Tensor]:
    return blurred(image, box, strength=strength), box

"""Varies the colours of images."""

from typing import Any

from torch import Tensor
from torchvision.transforms.v2 import functional

# Any, since torchvision does not declare which of these names are public.
_KERNELS: Any = functional
_BRIGHTEST_MEAN = 0.8 * 255


def recolour(pixels: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Change brightness, contrast and saturation of an image, in this order.

    Args:
        pixels: [3 h w] uint8.
        brightness: Factor above 0; one that would lift the mean above 0.8 is lowered.
        contrast: Factor above 0.
        saturation: Factor above 0.

    Returns:
        [3 h w] uint8.
    """
    mean = max(1.0, float(pixels.float().mean()))
    # One colour plane after the other: the kernels take two thirds of the time for these.
    pixels = pixels.contiguous()
    # Brightening what is bright already would burn pale objects into a white ground.
    pixels = _KERNELS.adjust_brightness(pixels, min(brightness, max(1.0, _BRIGHTEST_MEAN / mean)))
    pixels = _KERNELS.adjust_contrast(pixels, contrast)
    recoloured: Tensor = _KERNELS.adjust_saturation(pixels, saturation)
    return recoloured

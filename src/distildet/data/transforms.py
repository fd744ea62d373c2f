"""Turns an image into the view of it that a detector sees, with the geometry as a matrix."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_area, clip_boxes_to_image
from torchvision.transforms.v2 import functional

from distildet.errors import ConfigError
from distildet.ops.frames import map_boxes
from distildet.structures import Targets

# Any, since torchvision does not declare which of these names are public.
_KERNELS: Any = functional
_MIN_VISIBLE = 0.3
_MIN_SIDE = 1.0
_BRIGHTEST_MEAN = 0.8 * 255


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How far training views vary.

    Hue is left out: it costs more time than all else together.

    Args:
        flip: Probability of a mirror about the vertical axis, 0..1.
        zoom: Smallest and largest size relative to the whole image fitted into the view.
        colour: Largest relative change of brightness, contrast and saturation, 0..1.

    Raises:
        ConfigError: A value is out of range.
    """

    flip: float = 0.5
    zoom: tuple[float, float] = (0.75, 1.6)
    colour: float = 0.25

    def __post_init__(self) -> None:
        """Refuse values that no image could be drawn with."""
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"augmentation.flip is {self.flip}, accepted is 0 to 1.")
        if not 0 < self.zoom[0] <= self.zoom[1] < math.inf:
            raise ConfigError(
                f"augmentation.zoom is {self.zoom}, accepted are two factors above 0, "
                "the smaller one first."
            )
        if not 0 <= self.colour < 1:
            raise ConfigError(
                f"augmentation.colour is {self.colour}, accepted is 0 to 1 (1 excluded)."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """An image as a detector sees it, before the padding of a batch.

    Args:
        pixels: [3 h w], RGB float32 0..1.
        image_to_batch: [3 3] float64, from the image frame to the pixels of the view.
        image_size: (height, width) in the image frame.
    """

    pixels: Tensor
    image_to_batch: Tensor
    image_size: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Return the (height, width) of the view."""
        return self.pixels.shape[1], self.pixels.shape[2]


@dataclass(frozen=True, kw_only=True)
class _Crop:
    """A part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def fit_view(pixels: Tensor, image_size: int) -> View:
    """Scale a whole image so that its longer side is `image_size`.

    Args:
        pixels: [3 h w] uint8.
        image_size: Longer side of the view in pixels.

    Returns:
        The view; its matrix has the exact ratio of the rounded sizes.
    """
    height, width = pixels.shape[1:]
    scale = image_size / max(height, width)
    whole = _Crop(top=0, left=0, height=height, width=width)
    return _render(pixels, whole, _scaled(whole, scale, image_size), is_mirrored=False)


def augmented_view(
    pixels: Tensor,
    boxes: Tensor,
    image_size: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> View:
    """Draw a random view of an image: zoom, mirror, colours.

    What does not fit into `image_size` after zooming in is cut off, so that at least one object's
    centre stays in the view, if there is an object.

    Args:
        pixels: [3 h w] uint8.
        boxes: [n 4], xyxy pixels of the image frame; the objects.
        image_size: Largest side of the view in pixels.
        augmentation: How far views vary.
        generator: Source of all random numbers; the view is a pure function of it.
    """
    numbers = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    zoom, turn, place, top, left, brightness, contrast, saturation = numbers
    low, high = augmentation.zoom
    height, width = pixels.shape[1:]
    # Log-uniform: halving and doubling are equally likely where both are allowed.
    scale = image_size / max(height, width) * low * (high / low) ** zoom
    longest = max(1, round(image_size / scale))
    crop_size = (min(height, longest), min(width, longest))
    centre = None
    if len(boxes):
        x1, y1, x2, y2 = boxes[int(place * len(boxes))].tolist()
        centre = ((y1 + y2) / 2, (x1 + x2) / 2)
    crop = _place_crop(crop_size, (height, width), centre, (top, left))
    return _render(
        pixels,
        crop,
        _scaled(crop, scale, image_size),
        is_mirrored=turn < augmentation.flip,
        factors=(
            1 + augmentation.colour * (2 * brightness - 1),
            1 + augmentation.colour * (2 * contrast - 1),
            1 + augmentation.colour * (2 * saturation - 1),
        ),
    )


def view_targets(targets: Targets, view: View) -> Targets:
    """Bring the targets of an image into one of its views.

    A box is a target if at least 0.3 of its area is visible and its visible sides measure at
    least one pixel. Of the others, slivers that still measure one pixel become regions to ignore:
    there is part of an object, but too little to ask for it.

    Args:
        targets: With boxes and ignore regions in the image frame.
        view: The view of the same image.

    Returns:
        Targets in the frame of the view, which is that of the batch.
    """
    mapped = map_boxes(targets.boxes, view.image_to_batch)
    boxes = clip_boxes_to_image(mapped, view.size)
    is_visible = box_area(boxes) >= _MIN_VISIBLE * box_area(mapped)
    is_wide = _is_wide(boxes)
    ignore = clip_boxes_to_image(map_boxes(targets.ignore, view.image_to_batch), view.size)
    is_target = is_visible & is_wide
    return replace(
        targets,
        boxes=boxes[is_target],
        labels=targets.labels[is_target],
        weights=targets.weights[is_target],
        ignore=torch.cat([ignore[_is_wide(ignore)], boxes[is_wide & ~is_visible]]),  # [m, 4]
    )


def _is_wide(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE).all(1)  # [n]


def _scaled(crop: _Crop, scale: float, largest: int) -> tuple[int, int]:
    """Return the (height, width) of a crop in the view."""
    height = min(largest, max(1, round(crop.height * scale)))
    width = min(largest, max(1, round(crop.width * scale)))
    return height, width


def _place_crop(
    size: tuple[int, int],
    image_size: tuple[int, int],
    centre: tuple[float, float] | None,
    numbers: tuple[float, float],
) -> _Crop:
    """Place a crop of a size at random, around a centre if there is one; all are (y, x)."""
    starts = []
    for axis in range(2):
        free = image_size[axis] - size[axis]
        low, high = 0, free
        if centre is not None:
            low = min(max(math.ceil(centre[axis]) - size[axis], 0), free)
            high = min(max(math.floor(centre[axis]), 0), free)
        starts.append(low + int(numbers[axis] * (high - low + 1)))
    return _Crop(top=starts[0], left=starts[1], height=size[0], width=size[1])


def _render(
    pixels: Tensor,
    crop: _Crop,
    size: tuple[int, int],
    *,
    is_mirrored: bool,
    factors: tuple[float, float, float] | None = None,
) -> View:
    part = pixels[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    # Channels-last is twice as fast, and in the other order torch 2.15 fails an internal assertion
    # when the result is a single pixel (test_tiny_images_have_views).
    part = part[None].contiguous(memory_format=torch.channels_last)[0]
    # Cropping first and scaling once costs the least; uint8 is several times faster than float.
    scaled = _KERNELS.resize(part, list(size), antialias=True)  # [c, h, w]
    scale_y, scale_x = size[0] / crop.height, size[1] / crop.width
    matrix = torch.tensor(
        [[scale_x, 0, -crop.left * scale_x], [0, scale_y, -crop.top * scale_y], [0, 0, 1]],
        dtype=torch.float64,
    )
    if is_mirrored:
        scaled = _KERNELS.horizontal_flip(scaled)
        mirror = torch.tensor([[-1, 0, size[1]], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
        matrix = mirror @ matrix
    if factors:
        scaled = _recolour(scaled, *factors)
    return View(
        pixels=_KERNELS.to_dtype(scaled, torch.float32, scale=True).contiguous(),
        image_to_batch=matrix,
        image_size=(pixels.shape[1], pixels.shape[2]),
    )


def _recolour(pixels: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    # Brightening what is bright already would burn pale objects into a white ground.
    mean = max(1.0, float(pixels.float().mean()))
    pixels = _KERNELS.adjust_brightness(pixels, min(brightness, max(1.0, _BRIGHTEST_MEAN / mean)))
    pixels = _KERNELS.adjust_contrast(pixels, contrast)
    recoloured: Tensor = _KERNELS.adjust_saturation(pixels, saturation)
    return recoloured

"""Turns an image into the view of it that a detector sees, with the geometry as a matrix."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_area, clip_boxes_to_image
from torchvision.transforms.v2 import functional

from distildet.data.colours import recolour
from distildet.data.image_file import Picture, open_image
from distildet.errors import ConfigError
from distildet.ops.frames import map_boxes
from distildet.specs import ViewSize
from distildet.structures import Targets

# Any, since torchvision does not declare which of these names are public.
_KERNELS: Any = functional
_MIN_VISIBLE = 0.3
_MIN_SIDE = 1.0


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
class Crop:
    """A part of an image, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What a view will show, known before anything is decoded; `plan_fit` and others make it.

    Args:
        crop: The part of the image.
        size: (height, width) of the view.
        scale: Pixels of the view for one of the image frame, before sizes are rounded.
        is_mirrored: Whether left and right change places.
        factors: Of brightness, contrast and saturation; None leaves the colours alone.
    """

    crop: Crop
    size: tuple[int, int]
    scale: float
    is_mirrored: bool = False
    factors: tuple[float, float, float] | None = None


def plan_fit(size: tuple[int, int], image_size: ViewSize) -> ViewPlan:
    """Plan the view of a whole image.

    Args:
        size: (height, width) in the image frame.
        image_size: Longer side of the view in pixels, or what else it is scaled to.
    """
    whole = Crop(top=0, left=0, height=size[0], width=size[1])
    if image_size == "original":
        return ViewPlan(crop=whole, size=size, scale=1.0)
    if isinstance(image_size, int):
        scale = image_size / max(size)
        return ViewPlan(crop=whole, size=_scaled(whole, scale, image_size), scale=scale)
    frame = (image_size.height, image_size.width)
    scales = (frame[0] / size[0], frame[1] / size[1])
    if image_size.is_filled:
        return ViewPlan(crop=whole, size=frame, scale=max(scales))
    return ViewPlan(crop=whole, size=fitted_size(size, frame), scale=min(scales))


def fitted_size(size: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) of an image scaled, with its shape, to fit into a rectangle.

    Args:
        size: (height, width) of the image.
        frame: (height, width) of the rectangle.
    """
    scale = min(frame[0] / size[0], frame[1] / size[1])
    height, width = (
        min(most, max(1, round(side * scale))) for side, most in zip(size, frame, strict=True)
    )
    return height, width


def plan_augmented(
    size: tuple[int, int],
    boxes: Tensor,
    image_size: int,
    augmentation: Augmentation,
    generator: torch.Generator,
) -> ViewPlan:
    """Plan a random view of an image: zoom, mirror, colours.

    What does not fit into `image_size` after zooming in is cut off, so that at least one object's
    centre stays in the view, if there is an object.

    Args:
        size: (height, width) in the image frame.
        boxes: [n 4], xyxy pixels of the image frame; the objects.
        image_size: Largest side of the view in pixels.
        augmentation: How far views vary.
        generator: Source of all random numbers; the plan is a pure function of it.
    """
    numbers = torch.rand(8, generator=generator, dtype=torch.float64).tolist()
    zoom, turn, place, top, left, brightness, contrast, saturation = numbers
    low, high = augmentation.zoom
    height, width = size
    # Log-uniform: halving and doubling are equally likely where both are allowed.
    scale = image_size / max(height, width) * low * (high / low) ** zoom
    longest = max(1, round(image_size / scale))
    crop_size = (min(height, longest), min(width, longest))
    centre = None
    if len(boxes):
        x1, y1, x2, y2 = boxes[int(place * len(boxes))].tolist()
        centre = ((y1 + y2) / 2, (x1 + x2) / 2)
    crop = _place_crop(crop_size, (height, width), centre, (top, left))
    return ViewPlan(
        crop=crop,
        size=_scaled(crop, scale, image_size),
        scale=scale,
        is_mirrored=turn < augmentation.flip,
        factors=(
            1 + augmentation.colour * (2 * brightness - 1),
            1 + augmentation.colour * (2 * contrast - 1),
            1 + augmentation.colour * (2 * saturation - 1),
        ),
    )


def view_picture(picture: Picture, plan: ViewPlan) -> View:
    """Show a picture as planned.

    Args:
        picture: The image; where it has fewer pixels than the image frame, the crop is moved to
            the nearest of them, and the matrix of the view tells where it lies.
        plan: For an image of this size.
    """
    top, bottom = _nearest(plan.crop.top, plan.crop.height, picture, axis=0)
    left, right = _nearest(plan.crop.left, plan.crop.width, picture, axis=1)
    # Channels-last is twice as fast, and in the other order torch 2.15 fails an internal assertion
    # when the result is a single pixel (test_tiny_images_have_views).
    part = picture.pixels[:, top:bottom, left:right]
    part = part[None].contiguous(memory_format=torch.channels_last)[0]
    # Cropping first and scaling once costs the least; uint8 is several times faster than float.
    scaled = _KERNELS.resize(part, list(plan.size), antialias=True)  # [c, h, w]
    scale_y, scale_x = plan.size[0] / (bottom - top), plan.size[1] / (right - left)
    matrix = torch.tensor(
        [
            [scale_x * picture.scale[1], 0, (picture.start[1] - left) * scale_x],
            [0, scale_y * picture.scale[0], (picture.start[0] - top) * scale_y],
            [0, 0, 1],
        ],
        dtype=torch.float64,
    )
    if plan.is_mirrored:
        scaled = _KERNELS.horizontal_flip(scaled)
        mirror = torch.tensor([[-1, 0, plan.size[1]], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
        matrix = mirror @ matrix
    if plan.factors:
        scaled = recolour(scaled, *plan.factors)
    return View(
        pixels=_KERNELS.to_dtype(scaled, torch.float32, scale=True).contiguous(),
        image_to_batch=matrix,
        image_size=picture.size,
    )


def view_file(path: Path, plan: Callable[[tuple[int, int]], ViewPlan]) -> View:
    """Show a view of an image file, of which no more is decoded than the view needs.

    Args:
        path: The image.
        plan: (height, width) in the image frame -> what to show.

    Raises:
        DataError: As `open_image` and `ImageFile.picture`.
    """
    with open_image(path) as file:
        planned = plan(file.size)
        picture = file.picture(planned.scale)
    return view_picture(picture, planned)


def fit_view(image: Path | Tensor, image_size: ViewSize) -> View:
    """Show a whole image.

    Args:
        image: A file, or [3 h w] uint8.
        image_size: Longer side of the view in pixels, or what else it is scaled to.

    Raises:
        DataError: As `view_file`.
    """
    if isinstance(image, Path):
        return view_file(image, lambda size: plan_fit(size, image_size))
    size = (image.shape[1], image.shape[2])
    return view_picture(Picture(pixels=image, size=size), plan_fit(size, image_size))


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
        replace(targets, boxes=boxes).chosen(is_target),
        ignore=torch.cat([ignore[_is_wide(ignore)], boxes[is_wide & ~is_visible]]),  # [m, 4]
    )


def _is_wide(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= _MIN_SIDE).all(1)  # [n]


def _scaled(crop: Crop, scale: float, largest: int) -> tuple[int, int]:
    """Return the (height, width) of a crop in the view."""
    height = min(largest, max(1, round(crop.height * scale)))
    width = min(largest, max(1, round(crop.width * scale)))
    return height, width


def _place_crop(
    size: tuple[int, int],
    image_size: tuple[int, int],
    centre: tuple[float, float] | None,
    numbers: tuple[float, float],
) -> Crop:
    """Place a crop of a size at random, around a centre if there is one; all are (y, x)."""
    starts = []
    for axis in range(2):
        free = image_size[axis] - size[axis]
        low, high = 0, free
        if centre is not None:
            low = min(max(math.ceil(centre[axis]) - size[axis], 0), free)
            high = min(max(math.floor(centre[axis]), 0), free)
        starts.append(low + int(numbers[axis] * (high - low + 1)))
    return Crop(top=starts[0], left=starts[1], height=size[0], width=size[1])


def _nearest(start: int, length: int, picture: Picture, *, axis: int) -> tuple[int, int]:
    """Return the pixels of a picture, first and behind the last, that are nearest to a crop."""
    most = picture.pixels.shape[1 + axis]
    scale, shift = picture.scale[axis], picture.start[axis]
    first = min(round(shift + scale * start), most - 1)
    return first, max(first + 1, min(round(shift + scale * (start + length)), most))

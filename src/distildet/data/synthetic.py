"""Draws labeled scenes of geometric shapes, for the demo and for tests.

The scenes are hard on purpose: classes look alike (circle and ellipse, square and pentagon), any
turn, size, colour and texture occurs, objects cover each other, and hollow outlines, lines and
blobs distract. A small detector with few labels does clearly worse than one with many.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from distildet.artefacts import new_folder, write_json
from distildet.errors import ConfigError, DataError, nearest_names

SHAPES = ("circle", "ellipse", "square", "pentagon", "triangle")
"""Every class that can be drawn."""

ANNOTATIONS_FILE = "annotations.json"

_SUPERSAMPLING = 3
_MIN_VISIBLE = 0.4
_MIN_CONTRAST = 45.0
_CORNERS = {"circle": 48, "ellipse": 48, "square": 4, "pentagon": 5, "triangle": 3}

_Array = NDArray[np.float32]


class _Object(NamedTuple):
    """A drawn object: its class, its outline [n 2] (x, y), and how much of each pixel it covers."""

    shape: str
    outline: NDArray[Any]
    mask: _Array


def make_scenes(
    folder: Path,
    *,
    images: int,
    seed: int,
    size: int = 128,
    classes: Sequence[str] = SHAPES,
) -> Path:
    """Write images and a COCO json file; the same arguments give the same scenes.

    A box encloses the whole outline inside the image. Objects of which less than 0.4 is visible
    are marked `iscrowd`.

    Args:
        folder: Folder to make, with `000000.jpg`, ... and `annotations.json`.
        images: Number of images, at least 1.
        seed: Seed of all that is random. Image i is the same for any number of images.
        size: Height and width of the images in pixels, at least 32.
        classes: Names out of `SHAPES`, in the order of the category ids.

    Returns:
        The path of the annotations.

    Raises:
        ConfigError: An argument is out of range, or a class cannot be drawn.
        DataError: The folder exists.
    """
    _check(folder, images, size, classes)
    records: list[dict[str, Any]] = []
    with new_folder(folder) as temporary:
        for index in range(images):
            generator = np.random.default_rng([seed, index])
            picture, objects = _draw_scene(generator, size, classes)
            picture.save(temporary / _file_name(index), quality=92)
            records += [
                {"image_id": index + 1, "category_id": classes.index(one.shape) + 1, **box}
                for one, box in _boxes(objects, size)
            ]
        document = {
            "images": [
                {"id": index + 1, "file_name": _file_name(index), "width": size, "height": size}
                for index in range(images)
            ],
            "annotations": [{"id": number, **box} for number, box in enumerate(records, start=1)],
            "categories": [{"id": number, "name": n} for number, n in enumerate(classes, start=1)],
        }
        write_json(temporary / ANNOTATIONS_FILE, document)
    return folder / ANNOTATIONS_FILE


def _check(folder: Path, images: int, size: int, classes: Sequence[str]) -> None:
    if images < 1:
        raise ConfigError(f"images is {images}, accepted is 1 and above.")
    if size < 32:
        raise ConfigError(f"size is {size}, accepted is 32 and above (pixels).")
    if not classes or len(set(classes)) < len(classes):
        raise ConfigError(
            f"classes is {list(classes)}, accepted is at least one shape, each once. "
            f"{nearest_names('', SHAPES)}"
        )
    for name in classes:
        if name not in SHAPES:
            raise ConfigError(f"Unknown shape {name!r}. {nearest_names(name, SHAPES)}")
    if folder.exists():
        raise DataError(f"{folder}: exists already. Remove it or give a folder that is not there.")


def _file_name(index: int) -> str:
    return f"{index:06d}.jpg"


def _boxes(objects: Sequence[_Object], size: int) -> list[tuple[_Object, dict[str, Any]]]:
    """Return the COCO fields of each object; later objects cover earlier ones."""
    boxes = []
    uncovered = np.ones((size, size), dtype=np.float32)
    for one in reversed(objects):
        visible = float((one.mask * uncovered).sum() / one.mask.sum())
        uncovered *= 1 - one.mask
        if one.shape not in SHAPES:
            continue
        x1, y1 = one.outline.min(0).clip(0, size).tolist()
        x2, y2 = one.outline.max(0).clip(0, size).tolist()
        bbox = [round(number, 2) for number in (x1, y1, x2 - x1, y2 - y1)]
        area = round(float(one.mask.sum()), 2)
        boxes.append((one, {"bbox": bbox, "area": area, "iscrowd": int(visible < _MIN_VISIBLE)}))
    return boxes[::-1]


def _draw_scene(
    generator: np.random.Generator, size: int, classes: Sequence[str]
) -> tuple[Image.Image, list[_Object]]:
    """Return the picture and all that was drawn on it, clutter too, from back to front."""
    canvas = _draw_background(generator, size)
    num_objects = int(generator.integers(1, 6))
    num_clutter = int(generator.integers(0, 5))
    kinds = ["object"] * num_objects + ["clutter"] * num_clutter
    drawn = []
    for kind in generator.permutation(kinds):
        if kind == "object":
            one = _draw_object(generator, size, classes)
        else:
            one = _draw_clutter(generator, size)
        if one.mask.sum() > 0:
            colours = _draw_texture(generator, size, canvas, one.mask)
            canvas += one.mask[..., None] * (colours - canvas)  # [h, w, c]
            drawn.append(one)
    noise = generator.normal(0, generator.uniform(1, 8), canvas.shape)
    picture = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(generator.uniform(0, 0.9)))
    noisy = (np.asarray(picture, dtype=np.float32) + noise).clip(0, 255)
    return Image.fromarray(noisy.astype(np.uint8)), drawn


def _draw_background(generator: np.random.Generator, size: int) -> _Array:
    """Draw clouds of three scales in colours near to each other: [h, w, c], 0..255."""
    canvas = np.zeros((size, size, 3), dtype=np.float32)
    canvas += generator.uniform(50, 200) + generator.normal(0, 18, 3)
    for cells, strength in ((3, 40.0), (9, 22.0), (size // 4, 14.0)):
        grain = generator.normal(0, strength * generator.uniform(0.1, 0.5), (cells, cells, 3))
        grain += generator.normal(0, strength * generator.uniform(0.2, 1), (cells, cells, 1))
        for channel in range(3):
            cloud = Image.fromarray(grain[..., channel].astype(np.float32))
            canvas[..., channel] += np.asarray(cloud.resize((size, size), Image.Resampling.BICUBIC))
    clipped: _Array = canvas.clip(0, 255)
    return clipped


def _draw_object(generator: np.random.Generator, size: int, classes: Sequence[str]) -> _Object:
    shape = str(generator.choice(np.array(classes)))
    radius = size * math.exp(generator.uniform(math.log(0.09), math.log(0.24)))
    angles = np.arange(_CORNERS[shape]) * (2 * math.pi / _CORNERS[shape])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)  # [n, xy]
    if shape == "ellipse":
        points[:, 1] *= generator.uniform(0.5, 0.72)
    turn = generator.uniform(0, 2 * math.pi)
    rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    centre = generator.uniform(0.06 * size, 0.94 * size, 2)
    outline = (points @ rotation.T * radius + centre).astype(np.float32)
    return _Object(shape, outline, _mask(outline, size, "fill", 0))


def _draw_clutter(generator: np.random.Generator, size: int) -> _Object:
    """Draw what is not to be found: a hollow outline, a line, or a blob."""
    kind = generator.choice(["outline", "line", "blob"])
    centre = generator.uniform(0, size, 2)
    if kind == "outline":
        hollow = _draw_object(generator, size, SHAPES)
        width = max(1.5, 0.012 * size * generator.uniform(0.8, 2))
        return _Object("clutter", hollow.outline, _mask(hollow.outline, size, "line", width))
    if kind == "line":
        points = centre + generator.normal(0, 0.25 * size, (int(generator.integers(2, 5)), 2))
        width = size * generator.uniform(0.008, 0.035)
        return _Object("clutter", points, _mask(points, size, "open", width))
    angles = np.linspace(0, 2 * math.pi, 14, endpoint=False)
    reach = size * generator.uniform(0.02, 0.09) * generator.uniform(0.35, 1.5, 14)
    points = centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * reach[:, None]
    return _Object("clutter", points, _mask(points, size, "fill", 0))


def _mask(points: NDArray[Any], size: int, kind: str, width: float) -> _Array:
    """Draw with smooth edges: [h, w], 0..1."""
    large = Image.new("L", (size * _SUPERSAMPLING, size * _SUPERSAMPLING))
    corners = [(float(x), float(y)) for x, y in points * _SUPERSAMPLING]
    brush = ImageDraw.Draw(large)
    if kind == "fill":
        brush.polygon(corners, fill=255)
    else:
        closed = [*corners, corners[0], corners[1]] if kind == "line" else corners
        brush.line(closed, fill=255, width=round(width * _SUPERSAMPLING), joint="curve")
    return np.asarray(large.reduce(_SUPERSAMPLING), dtype=np.float32) / np.float32(255)


def _draw_texture(
    generator: np.random.Generator, size: int, canvas: _Array, mask: _Array
) -> _Array:
    """Draw colours that stand out from what they will cover: [h, w, c]."""
    below = (canvas * mask[..., None]).sum((0, 1)) / mask.sum()
    direction = generator.normal(size=3)
    contrast = _MIN_CONTRAST * generator.uniform(1, 3)
    shift = contrast * direction / np.linalg.norm(direction)
    # Away from the nearer end of the range, where clipping would eat the contrast.
    shift = np.where((below + shift < 10) | (below + shift > 245), -shift, shift)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    turn = generator.uniform(0, math.pi)
    along = rows * math.sin(turn) + columns * math.cos(turn)
    strength = generator.uniform(0, 22)
    texture = generator.choice(["plain", "stripes", "speckle", "gradient"])
    pattern: NDArray[Any] = np.zeros((size, size))
    if texture == "stripes":
        pattern = np.sin(along * (2 * math.pi / generator.uniform(3, 9)))
    elif texture == "speckle":
        pattern = generator.normal(0, 1, (size, size))
    elif texture == "gradient":
        pattern = (along - along.mean()) / size * 4
    colours = (below + shift + strength * pattern[..., None]).clip(0, 255)
    return np.asarray(colours, dtype=np.float32)

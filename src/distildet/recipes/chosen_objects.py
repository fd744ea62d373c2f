"""Pictures of the objects that losses chose, such as the prototypes of each class."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor

from distildet import artefacts
from distildet.ops.frames import to_image_frame
from distildet.recipes.observed_images import ObservedViews
from distildet.report.crops import crop_objects, draw_grid
from distildet.training.terms import Term, term_names

PROTOTYPES = "prototypes"
_NOT_IN_FILE_NAMES = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|\ud800-\udfff]')
# What file systems take as the name of a file; a digest of this length tells long names apart.
_LONGEST_NAME_BYTES = 255
_DIGEST_LENGTH = 16


class _Object(NamedTuple):
    """An image file, and the box of an object in the image frame."""

    path: Path
    box: Tensor


def draw_chosen(
    terms: Sequence[Term],
    images: ObservedViews,
    folder: Path,
    *,
    between: Callable[[], None],
) -> None:
    """Write a picture of each class with the objects that a loss chose, cut out of their images.

    The first loss that looks at objects beforehand has the folder `prototypes`, the next one
    `prototypes-2`, and so on; one that chose nothing has none. A rerun writes the same again.

    Args:
        terms: Those of the stage whose losses looked at objects, after its last step.
        images: What the losses looked at.
        folder: Of the stage.
        between: Called after each batch that is looked at again and before each class; what it
            raises ends the work, and leaves no folder half full.

    Raises:
        DataError: An image cannot be decoded.
        ResourceError: The disk is full, or a worker process died.
    """
    names = term_names([PROTOTYPES] * len(terms))
    chosen = {
        name: found
        for name, term in zip(names, terms, strict=True)
        if (found := term.loss.chosen())
    }
    numbers = {
        number
        for by_class in chosen.values()
        for of_class in by_class.values()
        for number in of_class
    }
    if not numbers:
        return
    objects = _objects(images, numbers, between)
    for name, by_class in chosen.items():
        stems = file_stems(by_class)
        with artefacts.new_folder(folder / name) as made:
            for class_name, of_class in by_class.items():
                between()
                drawing = _drawing([objects[number] for number in of_class])
                (made / f"{stems[class_name]}.png").write_bytes(drawing)


def file_stems(names: Iterable[str]) -> dict[str, str]:
    """Return by class name that of a file without suffix; no two are the same, case aside.

    Signs that some file systems do not take are written as in a URL. What is too long is cut, and
    ends in a digest of the whole; as do names that differ from one before in case alone, which some
    file systems take for the same.

    Args:
        names: Of classes.

    Example:
        >>> file_stems(["cup/glass", "Car", "car"])
        {'cup/glass': 'cup%2Fglass', 'Car': 'Car', 'car': 'car-2b2961a431b23c90'}
    """
    stems: dict[str, str] = {}
    folded: set[str] = set()
    for name in names:
        stems[name] = _file_stem(name, is_taken=name.casefold() in folded)
        folded.add(name.casefold())
    return stems


def _file_stem(name: str, *, is_taken: bool) -> str:
    stem = _NOT_IN_FILE_NAMES.sub(lambda sign: quote(sign[0], "", errors="surrogatepass"), name)
    encoded = stem.encode()
    longest = _LONGEST_NAME_BYTES - len(".png")
    if len(encoded) <= longest and not is_taken:
        return stem
    digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST_LENGTH]
    # A letter that is cut in two is dropped, since it is none any more.
    return f"{encoded[: longest - _DIGEST_LENGTH - 1].decode('utf-8', 'ignore')}-{digest}"


def _objects(
    images: ObservedViews, numbers: set[int], between: Callable[[], None]
) -> dict[int, _Object]:
    """Return the objects of these numbers."""
    observed = enumerate(_observed(images, between))
    return {number: found for number, found in observed if number in numbers}


def _observed(images: ObservedViews, between: Callable[[], None]) -> Iterator[_Object]:
    """Yield every object, as losses are shown them: one too small is not seen."""
    draws = iter(images.draws)
    for batch, targets in images.batches(range(images.num_batches)):
        for place, target in enumerate(targets):
            path = next(draws).training_sample.sample.path
            for box in to_image_frame(target.boxes, batch, place):
                yield _Object(path, box)
        between()


def _drawing(objects: Sequence[_Object]) -> bytes:
    """Return a PNG file with objects side by side; an image is decoded once for all of its own."""
    places: dict[Path, list[int]] = {}
    for place, found in enumerate(objects):
        places.setdefault(found.path, []).append(place)
    crops: dict[int, Image.Image] = {}
    for path, of_path in places.items():
        boxes = torch.stack([objects[place].box for place in of_path])  # [n 4]
        crops |= zip(of_path, crop_objects(path, boxes), strict=True)
    return draw_grid([crops[place] for place in range(len(objects))])

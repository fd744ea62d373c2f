"""Pictures of the objects that losses chose, such as the prototypes of each class."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import torch
from PIL import Image
from torch import Tensor, nn

from distildet import artefacts
from distildet.ops.frames import to_image_frame
from distildet.recipes.observed_images import ChosenImages
from distildet.report.crops import crop_objects, draw_grid
from distildet.training.terms import Term, term_names

PROTOTYPES = "prototypes"
_NOT_IN_FILE_NAMES = re.compile(r'[\x00-\x1f\x7f%/\\:*?"<>|\ud800-\udfff]')
# What file systems take as the name of a file; a digest of this length tells long names apart.
_LONGEST_NAME_BYTES = 255
_DIGEST_LENGTH = 16


def draw_chosen(terms: Iterable[nn.Module], images: ChosenImages, folder: Path) -> None:
    """Write a picture of each class with the objects that a loss chose, cut out of their images.

    The first loss that looks at images beforehand has the folder `prototypes`, the next one
    `prototypes-2`, and so on; one that chose nothing has none. A rerun writes the same again.

    Args:
        terms: Of the stage, after its last step.
        images: What the losses looked at.
        folder: Of the stage.

    Raises:
        DataError: An image cannot be decoded.
        ResourceError: The disk is full, or a worker process died.
    """
    preparing = [
        term for term in terms if isinstance(term, Term) and term.loss.preparation is not None
    ]
    names = term_names([PROTOTYPES] * len(preparing))
    chosen = {
        name: found
        for name, term in zip(names, preparing, strict=True)
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
    crops = _crops(_boxes(images, numbers))
    for name, by_class in chosen.items():
        stems = file_stems(by_class)
        with artefacts.new_folder(folder / name) as made:
            for class_name, of_class in by_class.items():
                drawing = draw_grid([crops[number] for number in of_class])
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


def _boxes(images: ChosenImages, numbers: set[int]) -> dict[Path, dict[int, Tensor]]:
    """Return by image file the boxes of objects of these numbers, in the image frame."""
    found: dict[Path, dict[int, Tensor]] = {}
    for number, (path, box) in enumerate(_observed(images)):
        if number in numbers:
            found.setdefault(path, {})[number] = box
    return found


def _observed(images: ChosenImages) -> Iterator[tuple[Path, Tensor]]:
    """Yield file and box of every object, as losses are shown them: one too small is not seen."""
    draws = iter(images.draws)
    for batch, targets in images.batches(range(images.num_batches)):
        for place, target in enumerate(targets):
            path = next(draws).training_sample.sample.path
            for box in to_image_frame(target.boxes, batch, place):
                yield path, box


def _crops(boxes: Mapping[Path, Mapping[int, Tensor]]) -> dict[int, Image.Image]:
    """Return the object of each number; an image file is decoded once for all of its own."""
    return {
        number: crop
        for path, by_number in boxes.items()
        for number, crop in zip(
            by_number, crop_objects(path, torch.stack(list(by_number.values()))), strict=True
        )
    }

"""What the headers of image files tell: sizes, and whether there are several pictures."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from distildet.data.faults import MAX_EXAMPLES, Faults
from distildet.data.image_file import open_image
from distildet.data.names import one_line
from distildet.errors import DataError

_NUM_PROBES = 100
# The endings of formats that can hold several pictures.
_FRAMED_SUFFIXES = frozenset({".gif", ".png", ".apng", ".webp", ".tif", ".tiff", ".avif", ".avifs"})


def probe_size(path: Path) -> tuple[int, int]:
    """Return the (height, width) of an image after EXIF rotation, from its header alone.

    Raises:
        DataError: The file is not a readable image or has more than `MAX_PIXELS` pixels.
    """
    with open_image(path) as file:
        return file.size


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
        with open_image(path) as file:
            return file.is_framed
    except DataError:
        return False

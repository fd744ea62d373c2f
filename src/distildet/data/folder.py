"""Reads a folder of images that nobody has annotated."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from distildet.data.dataset import Dataset, Sample
from distildet.data.faults import MAX_EXAMPLES, Faults
from distildet.data.headers import note_frames
from distildet.data.names import (
    is_regular_file,
    one_line,
    read_list,
    relative_name,
    require_folder,
)
from distildet.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".png", ".apng", ".bmp", ".webp"),
        *(".tif", ".tiff", ".gif", ".avif", ".avifs", ".ppm", ".pgm"),
    }
)
"""File name endings taken for images, in lower case; a list may name files of any ending."""


def read_folder(images: Path, *, listed: Path | None = None, root: Path | None = None) -> Dataset:
    """Read the images of a folder and of all folders in it.

    Hidden files and folders (leading dot) are passed over, and, with a note, pipes, devices and
    broken links that have the name of an image. Links to files are followed, links to folders are
    not, so that a loop of links ends.

    Args:
        images: The folder.
        listed: Text file of file names relative to `images`, one a line. Only these are taken,
            in the order of the list.
        root: What sample ids are relative to; `images` if None.

    Returns:
        Samples without annotations, sorted by name or in the order of the list, without classes.

    Raises:
        DataError: The folder, a folder in it, or the list cannot be read, has no image, or names
            images that are not there.
    """
    require_folder(images)
    notes: tuple[str, ...] = ()
    if listed is None:
        found = _find_images(images)
        paths = [path for path in found if is_regular_file(path)]
        notes = _note_others(images, sorted(set(found) - set(paths)))
    else:
        paths = _find_listed(images, listed)
    if not paths:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise DataError(
            f"{one_line(images)}: there is no image in this folder. Accepted file name endings: "
            f"{endings}."
        )
    base = images if root is None else root
    return Dataset(
        samples=tuple(Sample(id=relative_name(p, base), path=p) for p in paths),
        notes=(*notes, *note_frames(images, paths)),
    )


def _find_images(folder: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
    return sorted(found)


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(
        f"{one_line(Path(error.filename))}: the folder cannot be read ({error.strerror}). Change "
        "who may read it, or list the images to take."
    ) from error


def _note_others(folder: Path, paths: Sequence[Path]) -> tuple[str, ...]:
    if not paths:
        return ()
    names = ", ".join(repr(path.name) for path in paths[:MAX_EXAMPLES])
    return (
        f"{one_line(folder)}: {len(paths)} pipes, devices or broken links: {names}"
        + (" ..." if len(paths) > MAX_EXAMPLES else ""),
    )


def _find_listed(folder: Path, listed: Path) -> list[Path]:
    faults = Faults(listed)
    names = read_list(listed)
    for name in names:
        if not is_regular_file(folder / name):
            faults.add(f"listed images must be files in {folder}, but are missing", repr(name))
    faults.raise_if_any()
    return [folder / name for name in names]

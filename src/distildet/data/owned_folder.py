"""Folders that are written as a whole, and replaced only while nobody has changed them.

A stamp in the folder lists what was written with its hashes: labels that somebody corrected by
hand, and files that somebody laid beside them, are never lost to a second call.
"""

import json
import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

from distildet import artefacts
from distildet.data.faults import Faults
from distildet.data.names import is_inside, is_regular_file, one_line
from distildet.errors import ConfigError

STAMP = ".distildet.json"
# The limit of Linux, macOS and Windows for one part of a path.
_LONGEST_PART_BYTES = 255
_MOST_KEPT = 100_000


def refuse_others(folder: Path) -> None:
    """Make sure that a folder has nothing but what `write_folder` has put there.

    Files that were written and are gone since are no hindrance.

    Args:
        folder: It may be missing or empty.

    Raises:
        ConfigError: Somebody else's files are in it, or a written file was changed.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            f"{one_line(folder)}: a folder is to be written, but a file has this name. Choose "
            "another place with --out."
        )
    paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    found = {path.relative_to(folder).as_posix(): path for path in sorted(paths)}
    stamp = found.pop(STAMP, None)
    written = {} if stamp is None else _read_stamp(stamp)
    for name, path in found.items():
        if name not in written:
            raise ConfigError(
                f"{one_line(folder)}: cannot be written to, since it has {name!r}, which distildet "
                "did not write there. Choose a new folder with --out."
            )
        if not is_regular_file(path) or _fingerprint(path) != written[name]:
            raise ConfigError(
                f"{one_line(folder)}: cannot be written again, since {name!r} was changed after "
                "distildet wrote it. Choose a new folder with --out, or delete this one."
            )


def write_folder(folder: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """Write a folder atomically; an older one stays until the new one is complete.

    Args:
        folder: Final name.
        files: Names relative to the folder, each once, with "/"; and contents.

    Raises:
        ConfigError: `refuse_others` refuses the folder, or nothing can be written at this place.
        ResourceError: The disk is full; an older folder is intact.
    """
    refuse_others(folder)
    written: dict[str, str] = {}
    with artefacts.new_folder(folder) as temporary:
        for name, content in files:
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            written[name] = artefacts.fingerprint_bytes(content)
        artefacts.write_json(temporary / STAMP, {"files": written})


def note_unwritable(source_by_file: Iterable[tuple[str, str]], faults: Faults) -> None:
    """Note images for which no file of their own can be written.

    Args:
        source_by_file: Pairs of the name of a file and the image that it is about.
        faults: Where they are noted.
    """
    source_of: dict[str, str] = {}
    for name, source in source_by_file:
        if not is_inside(name):
            faults.add("image names must stay inside their folder; rename them", repr(source))
        elif any(len(os.fsencode(part)) > _LONGEST_PART_BYTES for part in name.split("/")):
            faults.add(
                f"image names must leave room for another suffix, {_LONGEST_PART_BYTES} bytes in "
                "all; shorten them",
                repr(source),
            )
        elif name in source_of:
            faults.add(
                "images must differ in more than their suffix, or they share a file of boxes; "
                "rename or remove the others",
                f"{source_of[name]!r}, {source!r}",
            )
        source_of.setdefault(name, source)
    for name, source in source_of.items():
        for parent in map(str, PurePosixPath(name).parents):
            if parent in source_of:
                faults.add(
                    "a folder of images must not be named as the file of boxes of an image; "
                    "rename one of them",
                    f"{source_of[parent]!r}, {source!r}",
                )


def _fingerprint(path: Path) -> str:
    status = path.stat()
    moments = (status.st_mtime_ns, status.st_ctime_ns)
    return _fingerprint_of_version(path, status.st_ino, status.st_size, moments)


# A command asks before its long work and again before it writes: what stayed is read once.
@lru_cache(maxsize=_MOST_KEPT)
def _fingerprint_of_version(path: Path, _inode: int, _size: int, _moments: tuple[int, int]) -> str:
    return artefacts.fingerprint_file(path)


def _read_stamp(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_bytes())["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{one_line(path)}: the list of what distildet wrote there cannot be read ({error}). "
            "Choose a new folder with --out, or delete this one."
        ) from error

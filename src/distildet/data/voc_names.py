"""Names without suffix, by which the lists and files of PASCAL VOC go."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from distildet.data.faults import Faults
from distildet.data.folder import IMAGE_SUFFIXES
from distildet.data.names import read_list

# A line of the class lists of VOC: a name, and whether the class is in the image.
_NAME_AND_PRESENCE = re.compile(r"(?P<name>.*\S)\s+(-1|0|1)")


def name_without_suffix(name: str) -> str:
    """Return a relative file name without its last suffix."""
    return PurePosixPath(name).with_suffix("").as_posix()


def listed_stems(listed: Path, known: Iterable[str], faults: Faults) -> list[str]:
    """Read a list of names, such as those of ImageSets/Main.

    Args:
        listed: Text file with a name a line, with or without the suffix of an image; a second
            column of -1, 0 or 1 is passed over unless it is part of a known name.
        known: Names without suffix that may be listed.
        faults: Where names that are not known are noted.

    Returns:
        The known names that are listed, without suffix, each once, in the order of the list.

    Raises:
        DataError: The list cannot be read, is empty, or has a name that leaves the folder.
    """
    accepted = set(known)
    stems: dict[str, None] = {}
    for line in read_list(listed):
        with_presence = _NAME_AND_PRESENCE.fullmatch(line)
        names = [line] if with_presence is None else [line, with_presence["name"]]
        names += [
            name_without_suffix(name)
            for name in names
            if Path(name).suffix.lower() in IMAGE_SUFFIXES
        ]
        stem = next((name for name in names if name in accepted), None)
        if stem is None:
            faults.add(
                f"names in {listed} must be those of images or XML files, but are missing",
                repr(line),
            )
        else:
            stems[stem] = None
    return list(stems)

"""Names of images: what a data set may call a file, and the sample id that follows from it."""

import errno
import os
import re
import stat
from pathlib import Path

from distildet.data.faults import Faults
from distildet.errors import DataError

# Drive letters ("C:\x"), and schemes ("file:/x", "http://x"): the same form.
_SCHEME_OR_DRIVE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\\/]|[A-Za-z]:")

LEAVES_ROOT = (
    "file names must be relative to the folder of images and stay inside it "
    "(no leading slash, no '..', no drive, no URL)"
)


def one_line(path: Path) -> str:
    """Return a path as messages show it: a line feed in a name would break their line."""
    return str(path).replace("\n", "\\n")


def is_inside(name: str) -> bool:
    """Tell whether a file name of an annotation file stays inside the folder of images.

    The test is on the text alone, for Linux and Windows paths; nothing is opened. Links that the
    user has put into the folder are the user's decision and are followed.
    """
    parts = re.split(r"[\\/]", name)
    return not (
        not name.strip()
        or "\0" in name
        or name[0] in "\\/"
        or ".." in parts
        or _SCHEME_OR_DRIVE.match(name)
    )


def is_regular_file(path: Path) -> bool:
    """Tell whether a path is a file with bytes; False for folders, pipes and broken links."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # also names that no file system can hold
        return False


def require_folder(path: Path) -> None:
    """Make sure that a path is a folder.

    Raises:
        DataError: It is missing or something else.
    """
    if not path.is_dir():
        found = "is not a folder" if path.exists() else "does not exist"
        raise DataError(
            f"{one_line(path)}: the folder of images {found}. Give the folder that has them; an "
            "archive must be unpacked first."
        )


def require_regular_file(path: Path) -> None:
    """Make sure that what is about to be opened has an end: nobody may ever write to a pipe.

    Raises:
        OSError: It is a folder, pipe, socket or device; or nobody may look at it. Where nothing
            is, opening it tells so.
    """
    if path.exists() and not is_regular_file(path):
        raise OSError(errno.EINVAL, "it is not a file but a folder, pipe or device", str(path))


def relative_name(path: Path, root: Path) -> str:
    """Return the sample id of an image: its path relative to a root, with "/".

    Raises:
        DataError: The image is not below the root.
    """
    # abspath, not resolve: a link keeps the name that the user sees.
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(root))  # noqa: PTH100 - see above
    if not absolute.is_relative_to(base):
        raise DataError(
            f"{one_line(path)}: the image is not below the root {root}, to which sample ids are "
            "relative. Give a root that contains all images of the run."
        )
    return absolute.relative_to(base).as_posix()


def read_list(path: Path) -> tuple[str, ...]:
    """Read a text file of image names, one a line; empty lines are passed over.

    Returns:
        The names in the order of the file, each once.

    Raises:
        DataError: The file cannot be read, is not UTF-8, has no name, or has a name that leaves
            the folder of images.
    """
    try:
        require_regular_file(path)
        # Not splitlines: it also cuts at signs that names may have, such as U+2028.
        lines = path.read_text("utf-8-sig", errors="surrogateescape").split("\n")
    except OSError as error:
        raise DataError(
            f"{path}: the list of images cannot be read ({error.strerror}). "
            "Give a text file with one file name a line."
        ) from error
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise DataError(f"{path}: the list of images is empty. Give one file name a line.")
    faults = Faults(path)
    for name in names:
        if not is_inside(name):
            faults.add(LEAVES_ROOT, repr(name))
    faults.raise_if_any()
    return tuple(Path(name).as_posix() for name in names)

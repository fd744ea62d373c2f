"""Atomic writing of files and folders: what exists under its final name is complete.

Everything is written under a temporary name in the same folder, flushed to disk, and renamed.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distildet.errors import ResourceError

TEMPORARY_PREFIX = ".partial-"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        free = shutil.disk_usage(path.parent).free
        raise ResourceError(
            f"{path}: the disk is full ({free} bytes free). What was there before is intact. "
            "Free some space and run the same command again."
        ) from error


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; an older file of that name stays until the new one is complete.

    Args:
        path: Final name; its folder is made if missing.
        content: The whole content.

    Raises:
        ResourceError: The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _disk_errors_named(path):
        descriptor, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _flush_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, content.encode("utf-8", "surrogateescape"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, keys in the given order, NaN refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends without an error.

    Args:
        path: Final name. A complete folder of that name is replaced.

    Raises:
        ResourceError: The disk is full; nothing of the new folder is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _disk_errors_named(path):
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
        try:
            yield temporary
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o777 & ~umask)
            for file in temporary.rglob("*"):
                if file.is_file():
                    with file.open("rb") as opened:
                        os.fsync(opened.fileno())
            if path.exists():
                remove_folder(path)
            temporary.rename(path)
            _flush_folder(path.parent)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a kill in between leaves no half of it under its name."""
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted writer left in a folder; a missing folder is left missing."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def fingerprint_bytes(content: bytes) -> str:
    """Return the sha256 of a content, in hex."""
    return hashlib.sha256(content).hexdigest()


def fingerprint_file(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_json(content: Any) -> str:
    """Return the sha256 of a JSON-able value; the order of keys does not matter."""
    return fingerprint_bytes(json.dumps(content, sort_keys=True).encode())

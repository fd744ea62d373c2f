"""Atomic writing of files and folders: what exists under its final name is complete.

Everything is written under a temporary name in the same folder, flushed to disk, and renamed.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distildet.errors import ConfigError, ResourceError

TEMPORARY_PREFIX = ".partial-"
# Where a folder waits while a new one takes its name.
_REPLACED_PREFIX = f"{TEMPORARY_PREFIX}replaced-"
# Never writable for everybody, whatever the umask.
_FILE_MODE = 0o664
_FOLDER_MODE = 0o775
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_PLACE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


@contextmanager
def _disk_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        free = shutil.disk_usage(next(p for p in path.parents if p.exists())).free
        raise ResourceError(
            f"{path}: the disk took no more ({error.strerror}; {free} bytes are free). What was "
            "complete before is intact. Free some space and run the same command again."
        ) from error


@contextmanager
def _place_errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _PLACE_ERRORS:
            raise
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}: {error.filename}). "
            "Choose another place, or change who may write there."
        ) from error


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _temporary_name(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically; an older file of that name stays until the new one is complete.

    Args:
        path: Final name; its folder is made if missing.
        content: The whole content.

    Raises:
        ConfigError: Nothing can be written at this place.
        ResourceError: The disk is full.
    """
    with _disk_errors_named(path), _place_errors_named(path):
        temporary = _temporary_name(path)
        try:
            descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _FILE_MODE)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(path, content.encode("utf-8", "surrogateescape"))


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, keys in the given order, NaN refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def append_text(path: Path, content: str) -> None:
    """Add UTF-8 text to the end of a file; a kill may leave a part of it.

    Args:
        path: The file; it and its folder are made if missing.
        content: What to add.

    Raises:
        ConfigError: Nothing can be written at this place.
        ResourceError: The disk is full.
    """
    with _disk_errors_named(path), _place_errors_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(content)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path` when the block ends without an error.

    Args:
        path: Final name. A complete folder of that name is replaced; should a kill come between
            the two renames of that, `remove_partial` or the next writer puts the old one back.

    Raises:
        ConfigError: Nothing can be written at this place, or `path` is a file.
        ResourceError: The disk is full; nothing of the new folder is left.
    """
    path = path.resolve()
    with _disk_errors_named(path):
        with _place_errors_named(path):
            temporary = _temporary_name(path)
            if path.is_file():
                raise NotADirectoryError(errno.ENOTDIR, "a file has this name", str(path))
            temporary.mkdir(_FOLDER_MODE)
        try:
            yield temporary
            for written in [temporary, *temporary.rglob("*")]:
                written.chmod(written.stat().st_mode & ~0o002)
                _flush(written)
            _take_name(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def _take_name(temporary: Path, path: Path) -> None:
    """Rename a folder; one that has the name already is deleted after that."""
    replaced = path.with_name(f"{_REPLACED_PREFIX}{path.name}")
    _put_back(replaced)
    if path.exists():
        path.rename(replaced)
    try:
        temporary.rename(path)
    except BaseException:
        _put_back(replaced)
        raise
    _flush(path.parent)
    if replaced.exists():
        remove_folder(replaced)


def _put_back(replaced: Path) -> None:
    """Undo, or finish, a replacement that was cut in two."""
    path = replaced.with_name(replaced.name.removeprefix(_REPLACED_PREFIX))
    if replaced.exists():
        if path.exists():
            remove_folder(replaced)
        else:
            replaced.rename(path)


def remove_folder(folder: Path) -> None:
    """Delete a folder so that a kill in between leaves no half of it under its name."""
    name = folder.name.removeprefix(_REPLACED_PREFIX)
    doomed = folder.with_name(f"{TEMPORARY_PREFIX}{name}")
    if doomed.exists():
        shutil.rmtree(doomed)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def remove_partial(folder: Path) -> None:
    """Delete what an interrupted writer left in a folder; a missing folder is left missing.

    A folder that was to be replaced, and was not, gets its name back.
    """
    for replaced in list(folder.glob(f"{_REPLACED_PREFIX}*")):
        _put_back(replaced)
    for leftover in list(folder.glob(f"{TEMPORARY_PREFIX}*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def flush_file(path: Path) -> None:
    """Make sure that what was appended to a file outlasts a loss of power."""
    if path.exists():
        _flush(path)


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

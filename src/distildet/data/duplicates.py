"""Finds image files that have the same bytes under different names."""

import stat
from collections.abc import Iterable
from pathlib import Path

from distildet import artefacts


def find_copies(paths: Iterable[Path], originals: Iterable[Path]) -> dict[Path, Path]:
    """Return those files that are copies of others.

    Files are hashed only where some file of the other side has the same size, so that sets of
    photographs are compared without reading most of them.

    Args:
        paths: Files to judge.
        originals: Files to compare with; one file on both sides is no copy.

    Returns:
        File of `paths` -> file of `originals` with the same bytes. What cannot be read is no copy:
        who decodes it says so by name.
    """
    originals_by_size: dict[int, list[Path]] = {}
    for original in originals:
        size = _size(original)
        if size is not None:
            originals_by_size.setdefault(size, []).append(original)
    original_by_hash: dict[int, dict[str, Path]] = {}
    copies = {}
    for path in paths:
        size = _size(path)
        if size is None or size not in originals_by_size:
            continue
        if size not in original_by_hash:
            original_by_hash[size] = _by_hash(originals_by_size[size])
        same = original_by_hash[size].get(_hash(path) or "")
        if same is not None and same.resolve() != path.resolve():
            copies[path] = same
    return copies


def _by_hash(paths: Iterable[Path]) -> dict[str, Path]:
    hashed = [(_hash(path), path) for path in paths]
    return {digest: path for digest, path in hashed if digest is not None}


def _size(path: Path) -> int | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # A pipe has a size too, but reading it would wait for ever.
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _hash(path: Path) -> str | None:
    try:
        return artefacts.fingerprint_file(path)
    except OSError:
        return None

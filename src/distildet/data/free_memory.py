"""How much memory this process may still take: of the machine, and of the container it is in."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_MEMINFO = Path("/proc/meminfo")
# The control groups of Linux, by which containers and batch systems are limited.
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
_SHARED = Path("/dev/shm")  # noqa: S108 -- where the memory that processes share comes from


class _Files(NamedTuple):
    """What the files of a control group are called."""

    limit: str
    used: str
    # Of the line in memory.stat that counts what was read from files and is given up on demand.
    reclaimable: str


_FILES_2 = _Files("memory.max", "memory.current", "inactive_file")
_FILES_1 = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def free_bytes() -> int:
    """Return how much memory is free, as far as the system says; else how much there is."""
    said = _number_after("MemAvailable:", _MEMINFO)
    there_is = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([there_is if said is None else said * 1024, *_free_in_groups()])


def free_shared_bytes() -> int | None:
    """Return how much memory processes can still share; None where that has no limit of its own."""
    return shutil.disk_usage(_SHARED).free if _SHARED.is_dir() else None


def _free_in_groups() -> Iterator[int]:
    """Yield what is free in each group that this process is in, and in those around it."""
    for line in _lines(_OWN_GROUPS):
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            yield from _free_around(_GROUPS, name, _FILES_2)
        elif "memory" in controllers.split(","):
            yield from _free_around(_GROUPS / "memory", name, _FILES_1)


def _free_around(root: Path, name: str, files: _Files) -> Iterator[int]:
    # In a container the name may be that outside of it, while the root is the container's own.
    group = root / name.lstrip("/")
    for folder in (group, *group.parents):
        limit, used = _lines(folder / files.limit), _lines(folder / files.used)
        if limit and used and limit[0] != "max":
            reclaimable = _number_after(files.reclaimable, folder / "memory.stat") or 0
            yield max(0, int(limit[0]) - int(used[0]) + reclaimable)
        if folder == root:
            return


def _number_after(word: str, path: Path) -> int | None:
    found = [line.split() for line in _lines(path) if line.startswith(f"{word} ")]
    return int(found[0][1]) if found else None


def _lines(path: Path) -> list[str]:
    """Return what a file of the system says; nothing where it is absent or kept from us."""
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []

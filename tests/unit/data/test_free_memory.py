"""Free memory, as files of a system tell it."""

import os

import pytest

from distildet.data import free_memory
from distildet.data.free_memory import free_bytes, free_shared_bytes

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Write the files of a system, by their names under its root."""
    monkeypatch.setattr(free_memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(free_memory, "_OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(free_memory, "_GROUPS", tmp_path / "cgroup")

    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{content}\n")

    return write


def group(place, limit, used, reclaimable):
    """Return the files of a group of version 2."""
    return {
        f"{place}/memory.max": limit,
        f"{place}/memory.current": used,
        f"{place}/memory.stat": f"anon 7\ninactive_file {reclaimable}\nactive_file 8",
    }


def group_1(place, limit, used, reclaimable):
    """Return the files of a group of version 1."""
    return {
        f"{place}/memory.limit_in_bytes": limit,
        f"{place}/memory.usage_in_bytes": used,
        f"{place}/memory.stat": f"inactive_file 7\ntotal_inactive_file {reclaimable}",
    }


HOST = {"meminfo": "MemTotal: 9999 kB\nMemAvailable:   50 kB"}
NO_LIMIT_1 = 9223372036854771712


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        # 50 * 1024; 30,000 - 25,000 + 3,000
        (HOST, 51_200),
        (HOST | {"own": "0::/"} | group("cgroup", 30_000, 25_000, 3_000), 8_000),
        (HOST | {"own": "0::/"} | group("cgroup", 30_000, 40_000, 3_000), 0),
        (HOST | {"own": "0::/"} | group("cgroup", 90_000, 0, 0), 51_200),
        (HOST | {"own": "0::/"} | group("cgroup", "max", 25_000, 3_000), 51_200),
        (HOST | {"own": "0::/job/step"} | group("cgroup/job/step", 30_000, 25_000, 0), 5_000),
        (HOST | {"own": "0::/job/step"} | group("cgroup/job", 30_000, 25_000, 1), 5_001),
        # As in a container: the name is that outside.
        (HOST | {"own": "0::/docker/a1"} | group("cgroup", 30_000, 25_000, 2), 5_002),
        (
            HOST
            | {"own": "0::/job/step"}
            | group("cgroup/job", 30_000, 26_000, 0)
            | group("cgroup/job/step", 30_000, 25_000, 0),
            4_000,
        ),
        (
            HOST
            | {"own": "5:cpu,cpuacct:/\n4:memory:/\n0::/"}
            | group_1("cgroup/memory", 30_000, 25_000, 3_000),
            8_000,
        ),
        (
            HOST
            | {"own": "4:cpu,memory:/docker/a1"}
            | group_1("cgroup/memory", NO_LIMIT_1, 25_000, 0)
            | group_1("cgroup/memory/docker/a1", 40_000, 25_000, 3_000),
            18_000,
        ),
        (HOST | {"own": "4:cpu:/"} | group_1("cgroup/memory", 30_000, 25_000, 0), 51_200),
        # A limit of which nobody says how much is used.
        (HOST | {"own": "0::/", "cgroup/memory.max": "30000"}, 51_200),
        (
            HOST | {"own": "0::/", "cgroup/memory.max": "9000", "cgroup/memory.current": "1000"},
            8_000,
        ),
        ({"own": "0::/"} | group("cgroup", 30_000, 25_000, 3_000), 8_000),
        ({}, MACHINE),
        ({"meminfo": ""}, MACHINE),
        ({"meminfo": "MemTotal: 9 kB"}, MACHINE),
    ],
)
def test_free_is_what_the_tightest_limit_leaves(system, files, expected):
    system(files)

    assert free_bytes() == expected


def test_shared_memory_is_free_as_far_as_its_file_system_says(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "_SHARED", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 45_000}))

    assert free_shared_bytes() == 45_000


def test_shared_memory_without_a_place_of_its_own_has_no_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(free_memory, "_SHARED", tmp_path / "none")

    assert free_shared_bytes() is None

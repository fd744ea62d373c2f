"""What holds for every test: one torch thread, no network, a working folder of its own."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Read by torch when a test first imports it, and inherited by the subprocesses of tests: two
# workers with a thread for each core would slow each other down. Set here rather than through
# torch, so that light tests never load it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

# Deadlines measure the machine, not the code; derandomised examples make a failure repeatable.
settings.register_profile("distildet", deadline=None, derandomize=True)
settings.load_profile("distildet")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        # Worker processes of a data loader speak through sockets of the file system.
        if self.family != socket.AF_UNIX:
            raise RuntimeError(f"A test tried to reach {address!r}; tests use no network.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the repository."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data(project: Path) -> Path:
    """Folder of the photographs beside the repository; without it the test is skipped."""
    folder = project.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the photographs are not there: ../shared/data")
    return folder


@pytest.fixture
def small_disk() -> Callable[[], AbstractContextManager[None]]:
    """A block in which no file can grow beyond 1000 bytes, as on a disk that is full.

    A block, not the whole test: pytest's own log may be a file that is larger.
    """

    @contextmanager
    def limit() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit

"""Processes that share work, as torchrun would start them."""

import multiprocessing
import pickle
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest


def _in_group(work: Callable[[], Any], rank: int, count: int, folder: Path) -> None:
    from torch import distributed

    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'group'}",
        rank=rank,
        world_size=count,
        timeout=timedelta(seconds=30),
    )
    # Who leaves before all have met would break their meeting.
    distributed.barrier()
    try:
        result = work()
    except Exception as error:
        result = error
    (folder / f"result-{rank}").write_bytes(pickle.dumps(result))
    distributed.destroy_process_group()


@pytest.fixture
def in_processes(tmp_path_factory):
    """Do something in several processes at once; return by rank its values, or its errors.

    They are forked from the test, which has imported torch already.
    """
    context = multiprocessing.get_context("fork")

    def run(work: Callable[[], Any], count: int = 2) -> list[Any]:
        folder = tmp_path_factory.mktemp("processes")
        processes = [
            context.Process(target=_in_group, args=(work, rank, count, folder))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
            process.kill()
        return [
            pickle.loads((folder / f"result-{rank}").read_bytes())  # noqa: S301 - our own
            for rank in range(count)
        ]

    return run

"""The group of processes that torchrun started: how one joins it, and how all end together."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from distildet.errors import ConfigError, DistildetError, InterruptedRunError, ResourceError

# Others wait while rank 0 writes and measures, however long that takes; a process that ends closes
# its connections, which ends the wait at once. What is left is one that hangs for ever.
LONGEST_WAIT = timedelta(days=1)
LONGEST_MEETING = timedelta(minutes=5)
_VARIABLES = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_FAILURE = "distildet/failure"
_BUG = 1


def num_started() -> int:
    """Return how many processes were started together; 1 without torchrun.

    Raises:
        ConfigError: The environment says that there are several, and not which one this is.
    """
    found = os.environ.get("WORLD_SIZE", "1")
    if not found.isdecimal() or int(found) < 1:
        raise ConfigError(
            f"The environment variable WORLD_SIZE is {found!r}. Accepted: the number of processes, "
            "as torchrun sets it. Start several processes with torchrun, or unset it."
        )
    missing = [name for name in _VARIABLES if name not in os.environ]
    if int(found) > 1 and missing:
        raise ConfigError(
            f"The environment variable WORLD_SIZE is {found}, but these are not set: "
            f"{', '.join(missing)}. Start several processes with torchrun, or unset WORLD_SIZE."
        )
    return int(found)


def local_rank() -> int:
    """Return the number of this process among those on this machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if num_started() > 1 else 0


@contextmanager
def process_group() -> Iterator[None]:
    """Let the processes that torchrun started talk to each other inside the block.

    One process alone, and one that has joined already, notice nothing. An error in one process
    ends the others with its message and exit code, as soon as they next wait for it. After an
    error the group is left as it is: others may be in the middle of a message, and it is the end
    of the process that closes the connections.

    Raises:
        ConfigError: What torchrun sets in the environment is not complete.
        ResourceError: The processes do not find each other, or one of them died or hangs.
        InterruptedRunError: Another process has stopped; with its message and exit code.
    """
    if num_started() == 1 or distributed.is_initialized():
        yield
        return
    store = _joined()
    try:
        yield
    except Exception as error:
        cause = _cause(error, store)
        if cause is error:
            raise
        raise cause from error
    distributed.destroy_process_group()


def is_first_to_say(message: str) -> bool:
    """Tell whether no other process has asked this about the same message."""
    key = f"distildet/said/{hashlib.sha256(message.encode(errors='replace')).hexdigest()}"
    try:
        return num_started() == 1 or int(_store().add(key, 1)) == 1
    except (ConfigError, RuntimeError):
        # Who keeps the list is not there: better twice than not at all.
        return True


def _joined() -> Store:
    try:
        store = _store()
        distributed.init_process_group(
            # Small things travel on the CPU, whatever device computes.
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("distildet/group", store),
            rank=int(os.environ["RANK"]),
            world_size=num_started(),
            timeout=LONGEST_WAIT,
        )
    except (RuntimeError, ValueError) as error:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise ResourceError(
            f"The {num_started()} processes did not find each other at {place} ({error}). Start "
            "all of them, and let this port through between the machines."
        ) from error
    return store


@cache
def _store() -> Store:
    """Return the table that all processes share, which outlives each of them under torchrun."""
    store: Store = next(rendezvous("env://", timeout=LONGEST_MEETING))[0]
    return store


def _cause(error: Exception, store: Store) -> Exception:
    """Return what stopped this process: its own error, or that of the process that was first."""
    unreached = _why_unreached(error)
    # torchrun, too, stops the others when one has failed.
    is_second = unreached is not None or isinstance(error, InterruptedRunError)
    first = _noted(store) if is_second else None
    if first is not None:
        return first
    _note(unreached or error, store)
    return unreached or error


def _noted(store: Store) -> InterruptedRunError | None:
    """Return the error of the process that was first, if it is known."""
    try:
        if not store.check([_FAILURE]):
            return None
        noted = json.loads(store.get(_FAILURE))
    except RuntimeError:
        # Without torchrun it is rank 0 that keeps the table, and it has ended.
        return None
    return InterruptedRunError(noted["message"], exit_code=noted["exit_code"])


def _note(error: Exception, store: Store) -> None:
    """Tell the others why this process ends, unless they have heard of another reason."""
    is_known = isinstance(error, DistildetError)
    name = f"Process {os.environ['RANK']} ended with {type(error).__name__}: {error}"
    noted = {
        "message": str(error) if is_known else name,
        "exit_code": error.exit_code if isinstance(error, DistildetError) else _BUG,
    }
    # As for `_noted`; who is still there sees that the connection is closed.
    with suppress(RuntimeError):
        store.compare_set(_FAILURE, "", json.dumps(noted))


def _why_unreached(error: Exception) -> ResourceError | None:
    """Return the error to show if another process could not be reached, None for all else."""
    # gloo, as of torch 2.15, has no exception of its own.
    is_of_gloo = isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    if is_of_gloo and "Timed out waiting" in str(error):
        hours = LONGEST_WAIT.total_seconds() / 3600
        return ResourceError(
            f"Process {os.environ['RANK']} waited for another one for {hours:.3g} hours "
            "and gave up; the other one hangs, or its machine is cut off. Look there, and run the "
            "same command again to continue."
        )
    if is_of_gloo or isinstance(error, distributed.DistError):
        return ResourceError(
            "Another process of this run ended without a word; perhaps the system stopped it "
            "because memory ran out. Run the same command again to continue."
        )
    return None

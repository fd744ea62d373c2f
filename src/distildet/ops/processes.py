"""The processes of one run, as torchrun starts them, and what they tell each other.

Without a process group every function behaves as the only process. Processes are told apart by
their rank, 0 to `num_processes() - 1`; all of them must call the same functions in the same order.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, distributed

Value = TypeVar("Value")


def num_processes() -> int:
    """Return how many processes share the work, at least 1."""
    return distributed.get_world_size() if _is_group() else 1


def rank() -> int:
    """Return the number of this process, 0 for the one that writes."""
    return distributed.get_rank() if _is_group() else 0


def _is_group() -> bool:
    # Some builds of torch come without this package.
    return distributed.is_available() and distributed.is_initialized()


def sum_over_processes(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes, without gradient.

    Args:
        value: Of the same shape and type in every process.
    """
    total = value.detach().clone()
    sum_in_place(total)
    return total


def sum_in_place(value: Tensor) -> None:
    """Replace a tensor by its sum over all processes, without a copy.

    Args:
        value: Of the same shape and type in every process, without gradient; the caller's own.
    """
    if num_processes() > 1:
        distributed.all_reduce(value)


def largest_of_processes(value: Tensor) -> Tensor:
    """Return the elementwise maximum of a tensor over all processes, without gradient.

    Args:
        value: Of the same shape and type in every process.
    """
    largest = value.detach().clone()
    if num_processes() > 1:
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
    return largest


def gather(value: Value) -> list[Value]:
    """Return the values of all processes by rank, in every process.

    Args:
        value: Anything that can be pickled; its tensors must be on the CPU.
    """
    if num_processes() == 1:
        return [value]
    gathered: list[Any] = [None] * num_processes()
    distributed.all_gather_object(gathered, value)
    return gathered


def from_first(value: Value) -> Value:
    """Return the value of the process of rank 0, in every process.

    Args:
        value: Anything that can be pickled; only that of rank 0 counts.
    """
    if num_processes() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if num_processes() > 1:
        distributed.barrier()


def own_share(items: Sequence[Value]) -> Sequence[Value]:
    """Return the items of this process: every n-th of them, n being the number of processes."""
    return items[rank() :: num_processes()]

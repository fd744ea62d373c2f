"""Work shared by the processes of a run, where the error of one becomes the error of all.

An error that stayed with its process would leave the others waiting for it. Only errors that are
no bugs travel; a bug ends its process, and with it whoever started all of them ends the others.
"""

import io
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from torch import Tensor, from_numpy

from distildet.errors import DistildetError
from distildet.ops.processes import from_first, gather, num_processes, own_share, rank

Item = TypeVar("Item")
Value = TypeVar("Value")


def share_out(
    items: Sequence[Item], compute: Callable[[Sequence[Item]], Iterable[Value]]
) -> tuple[list[Value], DistildetError | None]:
    """Compute a value for each item, every process for its share of them.

    Args:
        items: The same in every process.
        compute: Gives a value for each of some items, in their order.

    Returns:
        The values in the order of the items, up to the first that could not be computed, and why
        it could not, or None: the same in every process.

    Raises:
        ValueError: `compute` gave too few values without an error.
    """
    values: list[Value] = []
    error = None
    try:
        for value in compute(own_share(items)):
            values.append(value)  # noqa: PERF402 - what came before an error counts
    except DistildetError as fault:
        error = fault
    shares: list[tuple[list[Value], DistildetError | None]] = _gather((values, error))
    in_order: list[Value] = []
    for place in range(len(items)):
        index, owner = divmod(place, len(shares))
        computed, why_not = shares[owner]
        if index == len(computed):
            if why_not is None:
                raise ValueError(f"item {place} of {len(items)} has no value.")
            return in_order, why_not
        in_order.append(computed[index])
    return in_order, next((why_not for _, why_not in shares if why_not is not None), None)


def on_first(work: Callable[[], Value]) -> Value:
    """Do something in the process of rank 0 alone, and return its value in every process.

    Args:
        work: May write. What it returns is pickled.

    Raises:
        DistildetError: As `work` does; in every process.
    """
    value, error = None, None
    if rank() == 0:
        try:
            value = work()
        except DistildetError as fault:
            error = fault
    told: tuple[Value, DistildetError | None] = _unpacked(from_first(_packed((value, error))))
    if told[1] is not None:
        raise told[1]
    return told[0]


def _gather(value: Value) -> list[Value]:
    return [_unpacked(packed) for packed in gather(_packed(value))]


def _packed(value: Any) -> Any:
    if num_processes() == 1:
        return value
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(value)
    return buffer.getvalue()


def _unpacked(packed: Any) -> Any:
    # Bytes of another process of this very run.
    return packed if num_processes() == 1 else pickle.loads(packed)  # noqa: S301


class _Pickler(pickle.Pickler):
    """Pickles what travels between processes; tensors are on the CPU."""

    def reducer_override(self, value: Any) -> Any:
        """Return how to make a value anew, where the usual way does not serve."""
        if isinstance(value, Tensor):
            # As an array: torch's own way takes ten times as long for small tensors, and sends the
            # whole memory of which a tensor is a part.
            return from_numpy, (value.detach().numpy(),)
        if isinstance(value, DistildetError):
            # The usual way calls the class, which fails where it wants arguments by name.
            return _same_error, (type(value), value.args, vars(value))
        return NotImplemented


def _same_error(
    kind: type[DistildetError], arguments: tuple[Any, ...], state: dict[str, Any]
) -> DistildetError:
    error = kind.__new__(kind, *arguments)
    vars(error).update(state)
    return error

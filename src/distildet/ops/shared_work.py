"""Work shared by the processes of a run, where the error of one becomes the error of all.

An error that stayed with its process would leave the others waiting for it. Only errors that are
no bugs travel; a bug ends its process, and with it whoever started all of them ends the others.
"""

import io
import pickle
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from torch import Tensor, from_numpy

from distildet.errors import DistildetError
from distildet.ops.processes import from_first, gather, num_processes, own_share, rank

Item = TypeVar("Item")
Value = TypeVar("Value")
_Share: TypeAlias = tuple[list[Value], DistildetError | None]


def share_out(
    items: Sequence[Item],
    compute: Callable[[Sequence[Item]], Iterable[Value]],
    *,
    at_once: int | None = None,
) -> tuple[list[Value], DistildetError | None]:
    """Compute a value for each item, every process for its share of them.

    Args:
        items: The same in every process.
        compute: Gives a value for each of some items, in their order; called once for the whole
            share of a process.
        at_once: Values that a process computes before all tell each other theirs: so long may an
            error, or a signal that `compute` makes one, wait for the others. None: all values.

    Returns:
        The values in the order of the items, up to the first that could not be computed, and why
        it could not, or None: the same in every process.

    Raises:
        ValueError: `compute` gave too few values without an error.
    """
    size = len(items) if at_once is None else at_once * num_processes()
    # At least one round, in which an error of no item is told.
    starts = range(0, max(1, len(items)), max(1, size))
    in_order: list[Value] = []
    with closing(_each(compute, own_share(items))) as computed:
        for start in starts:
            of_round = items[start : start + size]
            # The last round ends with `compute`, which may fail after its last value.
            most = None if start == starts[-1] else len(own_share(of_round))
            found, error = _in_order(_exchanged(islice(computed, most)), len(of_round))
            in_order += found
            if error is not None:
                return in_order, error
            if len(found) < len(of_round):
                raise ValueError(f"item {len(in_order)} of {len(items)} has no value.")
    return in_order, None


def _each(
    compute: Callable[[Sequence[Item]], Iterable[Value]], share: Sequence[Item]
) -> Generator[Value]:
    """Yield what is computed; an error comes with the first value, as one of the work does."""
    yield from compute(share)


def _exchanged(computed: Iterable[Value]) -> list[_Share[Value]]:
    """Return by process the values of a round, and what ended it."""
    values: list[Value] = []
    error = None
    try:
        for value in computed:
            values.append(value)  # noqa: PERF402 - what came before an error counts
    except DistildetError as fault:
        error = fault
    return _told(error, lambda: _gather((values, error)))


def _in_order(
    shares: list[_Share[Value]], num_items: int
) -> tuple[list[Value], DistildetError | None]:
    """Return the values of a round up to the first that is not there, and why it is not."""
    in_order: list[Value] = []
    for place in range(num_items):
        index, owner = divmod(place, len(shares))
        computed, why_not = shares[owner]
        if index == len(computed):
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
    told: tuple[Value, DistildetError | None] = _told(
        error, lambda: _unpacked(from_first(_packed((value, error))))
    )
    if told[1] is not None:
        raise told[1]
    return told[0]


def _told(error: DistildetError | None, tell: Callable[[], Value]) -> Value:
    """Tell the others; where they cannot be reached, an error of this process's own comes first."""
    try:
        return tell()
    except RuntimeError as lost:
        if error is None:
            raise
        raise error from lost


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

"""Sums over the whole batch of a step, wherever its parts are computed.

The parts of a batch are the shares of several processes, and micro-batches, of which each process
may compute several one after the other. A loss that divides a sum by something counted in the
batch, such as its number of foreground locations, must count in all parts and not in its own
alone; otherwise it would be another loss for every number of parts. It writes

    loss = sum / batch_normaliser(count)

and the mean of `loss` over the parts, weighted by their images, is the value of the whole batch.
Counts of micro-batches that are still to come are learned from a first pass without gradient.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from torch import Tensor

from distildet.ops.processes import num_processes, sum_over_processes


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A micro-batch at work: its share, and either where counts go or where totals come from."""

    share: float
    counted: list[Tensor] | None = None
    totals: Iterator[Tensor] | None = None


_PART: ContextVar[_Part | None] = ContextVar("part of a batch", default=None)


def batch_total(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all parts of the batch, without gradient.

    Every part must come here equally often, with tensors of the same shape, whatever is in it.

    Args:
        value: What this part contributes; what it means must be the same when two parts are
            added up, as for counts and sums, not means.

    Returns:
        The total, of the shape of `value`.

    Raises:
        RuntimeError: Nobody counted before, since a class says that it does not count.
    """
    part = _PART.get()
    if part is None:
        return sum_over_processes(value)
    if part.counted is not None:
        part.counted.append(value.detach())
    if part.totals is None:
        return value.detach()
    total = next(part.totals, None)
    if total is None:
        raise RuntimeError(
            "A loss counts over the batch, but its class says counts_over_batch = False; it must "
            "be True."
        )
    return total


def batch_share() -> float:
    """Return the share of the batch's images that this part has, 0..1; 1 for a whole batch."""
    part = _PART.get()
    return (1.0 if part is None else part.share) / num_processes()


def batch_normaliser(count: Tensor) -> Tensor:
    """Return what a part divides a sum by, so that its mean over the parts is the batch's value.

    Args:
        count: What this part contributes to the normaliser, of any shape; that of the whole batch
            counts as 1 where it is less.
    """
    return batch_total(count).clamp(min=1.0) * batch_share()


@contextmanager
def counting(share: float) -> Iterator[list[Tensor]]:
    """Note what `batch_total` is asked inside the block, where it returns the part's own values.

    Args:
        share: Of this process's images that the part has, 0..1.
    """
    counted: list[Tensor] = []
    with _at_work(_Part(share=share, counted=counted)):
        yield counted


@contextmanager
def with_totals(share: float, totals: Sequence[Tensor]) -> Iterator[None]:
    """Let `batch_total` return, inside the block, the totals of the whole batch in turn.

    Args:
        share: Of this process's images that the part has, 0..1.
        totals: As `add_up` returns them.
    """
    with _at_work(_Part(share=share, totals=iter(totals))):
        yield


def add_up(counted: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the totals over all micro-batches of all processes.

    Args:
        counted: For each micro-batch of this process what `counting` noted.
    """
    return [
        sum_over_processes(sum(values[1:], start=values[0]))
        for values in zip(*counted, strict=True)
    ]


@contextmanager
def _at_work(part: _Part) -> Iterator[None]:
    token = _PART.set(part)
    try:
        yield
    finally:
        _PART.reset(token)

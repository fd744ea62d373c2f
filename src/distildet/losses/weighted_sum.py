"""Parts of a loss, each a sum that is divided by something counted over the whole batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distildet.ops.reduce import batch_normaliser


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """A sum over places of a batch, before it is divided.

    Args:
        value: Scalar with gradient.
        count: Scalar that it is divided by, what other parts of the batch count added; at least 1.
        factor: Of the quotient.
    """

    value: Tensor
    count: Tensor
    factor: float


def weighted_means(sums: Mapping[str, Sequence[WeightedSum]]) -> dict[str, Tensor]:
    """Return by name the sum of factor * value / count, normalised over the whole batch.

    Args:
        sums: By name at least one; the same names and numbers of sums in every part of the batch.
    """
    # In one message: each costs processes that wait for each other.
    counts = torch.stack([one.count for part in sums.values() for one in part])
    normalisers = iter(batch_normaliser(counts).unbind())
    return {
        name: torch.stack([one.factor * one.value / next(normalisers) for one in part]).sum()
        for name, part in sums.items()
    }

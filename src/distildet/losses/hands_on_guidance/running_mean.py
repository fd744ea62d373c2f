"""Values of the steps of a stage, averaged over a share of it."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RunningMean(nn.Module):
    """An exponential mean that forgets over a share of the stage, however many steps that is.

    Args:
        size: How many values.
        horizon: Share of the stage after which what was seen counts 1/e; above 0.
    """

    value: Tensor
    last: Tensor

    def __init__(self, size: int, horizon: float) -> None:
        super().__init__()
        self.horizon = horizon
        self.register_buffer("value", torch.zeros(size))
        # The progress at which it last learned; below 0 it has not.
        self.register_buffer("last", torch.tensor(-1.0))

    def restart(self) -> None:
        """Forget all values."""
        self.value.zero_()
        self.last.fill_(-1)

    def learn(self, values: Sequence[float], progress: float) -> None:
        """Take the values of a step; the first are taken as they are.

        Args:
            values: Finite.
            progress: Share of the stage that was finished before the step, 0..1.
        """
        last = float(self.last)
        kept = 0.0 if last < 0 else math.exp(-max(0.0, progress - last) / self.horizon)
        self.value.mul_(kept).add_(self.value.new_tensor(values), alpha=1 - kept)
        self.last.fill_(progress)

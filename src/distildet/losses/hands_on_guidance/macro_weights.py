"""What each level counts: those that lag behind in learning the more."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distildet.losses.hands_on_guidance.running_mean import RunningMean

START, STOP = 0.02, 0.06
"""Shares of the stage after the first step, between which the value is taken that progress is
measured from: when the projectors have begun to learn."""
HORIZON = 0.02
"""Share of the stage over which values are averaged."""
LEAST, LARGEST = 0.2, 3.0
_LOG_LEAST, _LOG_LARGEST = math.log(LEAST), math.log(LARGEST)
_HALVINGS = 60


class MacroWeights(nn.Module):
    """Weights of levels by relative progress; they are 1 until it is known.

    λ = K softmax(R / temperature) within 0.2..3 and of sum K; R: running mean of a level's value,
    divided by its mean at the start of the stage. A level whose value was 0 there has λ = 1.

    Args:
        size: K, the number of levels.
        temperature: Above 0; the smaller, the more it favours the level that lags most.
    """

    weights: Tensor
    start_sum: Tensor
    start_count: Tensor
    origin: Tensor

    def __init__(self, size: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.running = RunningMean(size, HORIZON)
        self.register_buffer("weights", torch.ones(size))
        self.register_buffer("start_sum", torch.zeros(size))
        self.register_buffer("start_count", torch.zeros(()))
        # The progress at which it first learned; below 0 it has not.
        self.register_buffer("origin", torch.tensor(-1.0))

    def restart(self) -> None:
        """Forget all values, which are of other pairs of levels."""
        self.running.restart()
        self.weights.fill_(1)
        self.start_sum.zero_()
        self.start_count.zero_()
        self.origin.fill_(-1)

    def learn(self, values: Sequence[float], progress: float) -> None:
        """Learn from the values of a step.

        Args:
            values: One a level, finite and >= 0.
            progress: Share of the stage that was finished before the step, 0..1.
        """
        if float(self.origin) < 0:
            self.origin.fill_(progress)
        passed = progress - float(self.origin)
        if passed < START:
            return
        if passed < STOP or float(self.start_count) == 0:
            self.start_sum += self.start_sum.new_tensor(values)
            self.start_count += 1
            return
        self.running.learn(values, progress)
        # On the CPU: not all devices have float64.
        start = (self.start_sum / self.start_count).cpu()
        began = start > 0
        relative = self.running.value.cpu().double() / torch.where(began, start, 1.0)
        self.weights.copy_(bounded_weights(relative / self.temperature, began))


def bounded_weights(lag: Tensor, counts: Tensor) -> Tensor:
    """Return min(3, max(0.2, c exp(lag))), with c such that the sum is their number.

    Args:
        lag: [n], on the CPU.
        counts: [n] bool; the others get 1.

    Example:
        >>> bounded_weights(torch.tensor([0.0, 9.0, 5.0]), torch.tensor([True, True, False]))
        tensor([0.2000, 1.8000, 1.0000])
    """
    # In Python's numbers, which are double: where one lags far behind, c is so large that float32
    # would not meet the sum; and for so few values they take less time than tensors.
    counted = [one for one, does in zip(lag.tolist(), counts.tolist(), strict=True) if does]
    largest = max(counted, default=0.0)
    shifted = [one - largest for one in counted]  # <= 0
    # The sum grows with log c; at the ends all are at the lower bound, or at the upper.
    low, high = _LOG_LEAST, _LOG_LARGEST - min(shifted, default=0.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if sum(_bounded(one + middle) for one in shifted) < len(shifted):
            low = middle
        else:
            high = middle
    weights = torch.ones(len(lag))
    weights[counts] = torch.tensor([_bounded(one + high) for one in shifted])
    return weights


def _bounded(log: float) -> float:
    # Before the exponential, which would overflow.
    return LEAST if log < _LOG_LEAST else math.exp(min(log, _LOG_LARGEST))

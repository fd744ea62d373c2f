"""The scale of a teacher's level: mean and deviation of each channel."""

import torch
from torch import Tensor, nn

LEAST_DEVIATION = 0.01
"""Of a channel, as a share of the root mean square of all: one that varies less says nothing, and
divided by its deviation it would be noise, as large as the others."""
_ROUNDING = 1e-6
"""Of a channel's deviation, as a share of its mean: what varies by less is the same everywhere."""


class ChannelScales(nn.Module):
    """Standardises maps by the statistics of a teacher's channels; until it is filled, not at all.

    Args:
        channels: Of the teacher's level.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))

    def fill(self, mean: Tensor, variance: Tensor) -> None:
        """Take the statistics.

        Args:
            mean: [c].
            variance: [c]. Channels that hardly vary are left out; if none does, none is.
        """
        deviation = variance.sqrt()
        least = LEAST_DEVIATION * variance.mean().sqrt()
        varies = deviation > torch.maximum(least, _ROUNDING * mean.abs())
        self.mean.copy_(mean)
        self.deviation.copy_(
            torch.where(varies, deviation, 0.0) if varies.any() else torch.ones_like(deviation)
        )

    def standardised(self, feature: Tensor) -> Tensor:
        """Return (F - mean) / deviation, [b c h w] float32; 0 for channels that are left out."""
        return (feature.float() - self.mean[:, None, None]) * self.factor[:, None, None]

    @property
    def factor(self) -> Tensor:
        """What a difference from the mean is multiplied by, [c]; 0 for channels left out."""
        return torch.where(self.deviation > 0, 1 / self.deviation, 0.0)

    @property
    def num_channels(self) -> Tensor:
        """How many channels count, scalar."""
        return (self.deviation > 0).sum()

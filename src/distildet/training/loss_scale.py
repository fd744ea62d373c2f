"""The factor that keeps gradients of a network in fp16 from vanishing or overflowing."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from distildet.ops.precision import Precision

# A gradient that overflows although nothing enlarges it does not come from the scale.
LEAST_SCALE = 1.0


class LossScale:
    """Scales losses before their gradients are computed, and the gradients back.

    fp16 has numbers from 6e-8 to 65504, and many gradients are smaller. The scale begins at
    65536, halves when a gradient overflows, and doubles after 2000 steps without. In other
    precisions it does nothing, since they have the range of float32.

    Args:
        device: Where losses and gradients are.
        precision: Of the networks.
    """

    def __init__(self, device: torch.device, precision: Precision) -> None:
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    @property
    def value(self) -> float:
        """The factor; 1 in precisions that need none."""
        return self._scaler.get_scale()

    def scaled(self, loss: Tensor) -> Tensor:
        """Return a loss times the factor, to compute gradients from."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of a step by the factor; once a step, before they are looked at."""
        self._scaler.unscale_(optimizer)

    def explains(self, *, loss_is_finite: bool) -> bool:
        """Return whether a gradient that is not finite is a matter of the factor alone.

        Such a step says nothing about the training and is left out without being counted among
        those with a loss or gradient that is not finite.

        Args:
            loss_is_finite: Whether the losses of the step are finite, unscaled.
        """
        return loss_is_finite and self._scaler.is_enabled() and self.value >= LEAST_SCALE

    def update(self) -> None:
        """Adapt the factor after a step, taken or not."""
        self._scaler.update()

    def state(self) -> dict[str, Any]:
        """Return all that it knows, as JSON values."""
        return self._scaler.state_dict()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` once returned."""
        self._scaler.load_state_dict(dict(state))

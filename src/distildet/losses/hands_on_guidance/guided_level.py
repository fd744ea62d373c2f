"""One level of the student, and what it is told by the teacher's level that it learns from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distildet.losses.hands_on_guidance.channel_scales import ChannelScales
from distildet.losses.hands_on_guidance.levels import LevelGroup
from distildet.losses.hands_on_guidance.measure import (
    on_coarser_grid,
    released,
    squared_difference,
)
from distildet.losses.hands_on_guidance.micro_weights import (
    cell_weights,
    evenness,
    uniform_weights,
)
from distildet.losses.hands_on_guidance.options import HandsOnGuidanceOptions
from distildet.losses.hands_on_guidance.regions import Cells
from distildet.ops.hands_on_difference import hands_on_difference


@dataclass(frozen=True, kw_only=True)
class GuidedValue:
    """What a level gives for a batch.

    Args:
        value: Scalar, mean over images of Σ w e, with gradient.
        foreground: Scalar, what cells that overlap a box count together, mean over images.
        evenness: Scalar 0..1, 1 where all cells count the same.
        released: Scalar, the difference that a share of the cells lies below; None: not asked.
    """

    value: Tensor
    foreground: Tensor
    evenness: Tensor
    released: Tensor | None


class GuidedLevel(nn.Module):
    """Compares one level of the student with any level of the teacher in its group.

    Args:
        channels: Of the student's level.
        group: With the teacher's levels.
        options: Measure and micro weights.
    """

    def __init__(self, channels: int, group: LevelGroup, options: HandsOnGuidanceOptions) -> None:
        super().__init__()
        self.options = options
        widths = [level.channels for level in group.guide]
        # One for all levels it may learn from: a narrower one is given the first channels.
        self.projector = nn.Conv2d(channels, max(widths), 1)
        if channels in widths:
            _start_as_identity(self.projector, channels)

    def forward(
        self,
        own: Tensor,
        guide: Tensor,
        scales: ChannelScales,
        cells: Callable[[Tensor], Cells],
        margin: Tensor | None,
    ) -> GuidedValue:
        """Return the value of the level.

        Args:
            own: [b c h w], the student's map.
            guide: [b d i j], the teacher's, without gradient.
            scales: Of the teacher's level.
            cells: Tells what the cells of a map count.
            margin: Scalar that differences count above; None: 0.
        """
        own, guide = on_coarser_grid(own.float(), guide.float())
        given, wanted = self._project(own, scales), scales.standardised(guide)
        if self.options.measure == "squared":
            difference = squared_difference(given, wanted, scales.deviation)
        else:
            difference = hands_on_difference(
                given, wanted, scales.num_channels, direction=self.options.value("direction")
            )
        shown, region, inside = cells(guide)
        quantile = (
            released(difference, shown[:, 0], self.options.release)
            if self.options.release > 0
            else None
        )
        if margin is not None:
            difference = (difference - margin).clamp(min=0)
        weights = (
            cell_weights(
                region,
                wanted.abs().sum(1) / scales.num_channels,
                difference,
                attention=self.options.value("attention"),
                hardness=self.options.value("hardness"),
            )
            if self.options.micro
            else uniform_weights(shown)
        )
        return GuidedValue(
            value=(weights * difference).sum((1, 2)).mean(),
            foreground=(weights * inside[:, 0]).sum((1, 2)).mean(),
            evenness=evenness(weights, shown),
            released=quantile,
        )

    def _project(self, own: Tensor, scales: ChannelScales) -> Tensor:
        """Return the student's map, projected and standardised, [b c h w] float32."""
        width = len(scales.mean)
        weight, bias = self.projector.weight[:width], self.projector.bias
        # Of weight and bias, which are small: of the map it would cost two more maps.
        shift = -scales.mean if bias is None else bias[:width] - scales.mean
        factor = scales.factor
        return F.conv2d(own, weight * factor[:, None, None, None], shift * factor).float()


@torch.no_grad()
def _start_as_identity(projector: nn.Conv2d, channels: int) -> None:
    """Let the first outputs be the inputs; the others stay random."""
    nn.init.dirac_(projector.weight[:channels])
    if projector.bias is not None:
        projector.bias[:channels] = 0

"""The feature term of global knowledge: neck maps are imitated where objects are reliable."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distildet.losses.feature_difference import (
    cells_that_show_image,
    squared_difference,
    statistics,
    variance_of_a_cell,
)
from distildet.losses.global_knowledge.object_features import canvas_of, relative_sides
from distildet.losses.global_knowledge.options import GlobalKnowledgeOptions, Variant
from distildet.losses.weighted_sum import WeightedSum
from distildet.ops.foreground import inside_boxes, painted
from distildet.ops.reduce import batch_total
from distildet.structures import ImageBatch, Targets

FINEST_SIDE = 56 / 800
"""Of boxes, as a share of the image's shorter side: twice as large are seen on the next level."""


class ReliableFeatures(nn.Module):
    """Projectors and the squared difference of maps, inside of boxes and outside.

    Args:
        channels: Level -> channels of the student and of the teacher, finest level first.
        options: Variant and weights.
    """

    def __init__(
        self, channels: Mapping[str, tuple[int, int]], options: GlobalKnowledgeOptions
    ) -> None:
        super().__init__()
        self.options = options
        self.levels = tuple(channels)
        self.projectors = nn.ModuleDict(
            {level: _projector(*pair, options.variant) for level, pair in channels.items()}
        )

    def forward(
        self,
        features: Mapping[str, tuple[Tensor, Tensor]],
        batch: ImageBatch,
        targets: Sequence[Targets],
        reliability: Mapping[str, Tensor],
    ) -> list[WeightedSum]:
        """Return the sums of all levels.

        Args:
            features: Level -> the student's map [b c_s h_s w_s] and the teacher's [b c_t h w].
            batch: The images.
            targets: One an image; their boxes are the objects, n in all.
            reliability: Level -> [n] of each object, 0..1.
        """
        guides = {level: features[level][1].detach().float() for level in self.levels}
        shown = {level: cells_that_show_image(batch, guide) for level, guide in guides.items()}
        own = [statistics(guides[level], shown[level]) for level in self.levels]
        # In one message: each costs processes that wait for each other.
        totals = batch_total(torch.cat(own)).split_with_sizes([len(one) for one in own])
        sums = []
        for level, total in zip(self.levels, totals, strict=True):
            guide = guides[level]
            projected = self.projectors[level](features[level][0])
            difference = squared_difference(projected, guide).sum(1, keepdim=True)  # [b 1 h w]
            scaled = difference / (2 * variance_of_a_cell(total))
            sums += [
                WeightedSum(
                    value=(cells * scaled).sum(),
                    count=cells.sum(),
                    factor=factor / len(self.levels),
                )
                for cells, factor in self._weighted_cells(
                    level, batch, targets, reliability[level], shown[level]
                )
            ]
        return sums

    def _weighted_cells(
        self,
        level: str,
        batch: ImageBatch,
        targets: Sequence[Targets],
        reliability: Tensor,
        shown: Tensor,
    ) -> list[tuple[Tensor, float]]:
        """Return [b 1 h w], what each cell inside and outside of boxes counts, and its factor."""
        boxes, values = self._seen_on(level, batch, targets, reliability)
        canvas, shape = canvas_of(batch), (shown.shape[2], shown.shape[3])
        foreground, background = (self.options.weight(name) for name in ("feature", "background"))
        weighted = []
        if foreground > 0:
            seen = painted(boxes, values, canvas=canvas, shape=shape)
            weighted.append((shown * seen, foreground))
        if background > 0:
            covered = [
                torch.cat([own, one.ignore]) if one.origin == "human" else own
                for own, one in zip(boxes, targets, strict=True)
            ]
            outside = ~inside_boxes(covered, canvas=canvas, shape=shape)
            weighted.append((shown * outside, background))
        return weighted

    def _seen_on(
        self, level: str, batch: ImageBatch, targets: Sequence[Targets], reliability: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return of each image the boxes that are seen on a level, and their reliability."""
        boxes = [target.boxes for target in targets]
        counts = [len(own) for own in boxes]
        values = reliability.split_with_sizes(counts)
        if self.options.variant == "paper":
            return boxes, list(values)
        sides = relative_sides(batch, boxes).prod(1).sqrt()
        places = (sides / FINEST_SIDE).log2().floor().clamp(0, len(self.levels) - 1)
        is_here = (places == self.levels.index(level)).split_with_sizes(counts)
        return (
            [own[here] for own, here in zip(boxes, is_here, strict=True)],
            [own[here] for own, here in zip(values, is_here, strict=True)],
        )


def _projector(own_channels: int, guide_channels: int, variant: Variant) -> nn.Module:
    """Return a map from the student's to the teacher's channels, the identity where it can be."""
    side = 1 if variant == "paper" else 3
    convolution = nn.Conv2d(own_channels, guide_channels, side, padding=side // 2)
    if own_channels == guide_channels:
        nn.init.dirac_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type] # a Conv2d has a bias by default
    return nn.Sequential(convolution, nn.ReLU()) if variant == "paper" else convolution

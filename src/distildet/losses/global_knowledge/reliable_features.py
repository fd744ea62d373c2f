"""The feature term of global knowledge: neck maps are imitated where objects are reliable."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distildet.losses.feature_difference import cells_that_show_image, squared_difference
from distildet.losses.global_knowledge.object_features import canvas_of, relative_sides
from distildet.losses.global_knowledge.options import GlobalKnowledgeOptions, Variant
from distildet.losses.weighted_sum import WeightedSum
from distildet.ops.foreground import inside_boxes, painted
from distildet.structures import ImageBatch, Targets

FINEST_SIDE = 56 / 800
"""Of boxes, as a share of the image's shorter side: twice as large are seen on the next level."""


class ReliableFeatures(nn.Module):
    """Projectors and the squared difference of maps, inside of boxes and outside.

    Args:
        channels: Level -> channels of the student and of the teacher, finest level first.
        options: Variant and weights.
        num_summed: What the sum over levels is divided by.
    """

    def __init__(
        self,
        channels: Mapping[str, tuple[int, int]],
        options: GlobalKnowledgeOptions,
        *,
        num_summed: int,
    ) -> None:
        super().__init__()
        self.options = options
        self.num_summed = num_summed
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
        sums = []
        for level in self.levels:
            own, guide = features[level]
            guide = guide.detach().float()
            # The mean over channels, and the half of a squared error.
            divisor = 2.0 * guide.shape[1]
            difference = squared_difference(self.projectors[level](own), guide).sum(
                1, keepdim=True
            )  # [b 1 h w]
            boxes, values = self._seen_on(level, batch, targets, reliability[level])
            shape = guide.shape[2], guide.shape[3]
            inside = painted(boxes, values, canvas=canvas_of(batch), shape=shape)
            weighted = [(inside, self.options.weight("feature"))]
            background = self.options.weight("background")
            if background > 0:
                covered = [
                    torch.cat([own_boxes, *([one.ignore] if one.origin == "human" else [])])
                    for own_boxes, one in zip(boxes, targets, strict=True)
                ]
                outside = ~inside_boxes(covered, canvas=canvas_of(batch), shape=shape)
                weighted.append((cells_that_show_image(batch, guide) * outside, background))
            sums += [
                WeightedSum(
                    value=(cells * difference).sum(),
                    count=divisor * cells.sum(),
                    factor=factor / self.num_summed,
                )
                for cells, factor in weighted
            ]
        return sums

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

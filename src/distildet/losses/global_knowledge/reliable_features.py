"""The feature term of global knowledge: neck maps are imitated where objects are reliable."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from distildet.losses.feature_difference import (
    cells_that_show_image,
    make_projector,
    squared_difference,
    statistics,
    variance_of_a_cell,
)
from distildet.losses.global_knowledge.options import GlobalKnowledgeOptions, Variant
from distildet.losses.object_sizes import places_by_size
from distildet.losses.weighted_sum import WeightedSum
from distildet.ops.foreground import inside_boxes, painted
from distildet.ops.reduce import batch_total
from distildet.structures import ImageBatch, Targets


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
        places = self._levels_of_objects(batch, targets)
        sums = []
        for place, (level, total) in enumerate(zip(self.levels, totals, strict=True)):
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
                    targets,
                    reliability[level],
                    None if places is None else places == place,
                    canvas=batch.canvas,
                    shown=shown[level],
                )
            ]
        return sums

    def _weighted_cells(
        self,
        targets: Sequence[Targets],
        reliability: Tensor,
        is_seen: Tensor | None,
        *,
        canvas: tuple[int, int],
        shown: Tensor,
    ) -> list[tuple[Tensor, float]]:
        """Return [b 1 h w], what each cell inside and outside of boxes counts, and its factor.

        Args:
            targets: One an image.
            reliability: [n] of each object on the level.
            is_seen: [n] which objects are seen on the level; None: all.
            canvas: (height, width) of the padded images.
            shown: [b 1 h w], cells that show image.
        """
        boxes = [target.boxes for target in targets]
        counts = [len(own) for own in boxes]
        seen = None if is_seen is None else is_seen.split_with_sizes(counts)
        shape = shown.shape[2], shown.shape[3]
        foreground, background = (self.options.weight(name) for name in ("feature", "background"))
        weighted = []
        if foreground > 0:
            values = reliability.split_with_sizes(counts)
            inside = painted(boxes, values, canvas=canvas, shape=shape, seen=seen)
            weighted.append((shown * inside, foreground))
        if background > 0:
            ignored = [target.human_ignore for target in targets]
            covered = inside_boxes(boxes, canvas=canvas, shape=shape, seen=seen)
            covered |= inside_boxes(ignored, canvas=canvas, shape=shape)
            weighted.append((shown * ~covered, background))
        return weighted

    def _levels_of_objects(self, batch: ImageBatch, targets: Sequence[Targets]) -> Tensor | None:
        """Return [n], the place of the level on which each object is seen; None: on all."""
        if self.options.variant == "paper":
            return None
        return places_by_size(batch, [target.boxes for target in targets], len(self.levels))


def _projector(own_channels: int, guide_channels: int, variant: Variant) -> nn.Module:
    if variant == "paper":
        return nn.Sequential(make_projector(own_channels, guide_channels), nn.ReLU())
    return make_projector(own_channels, guide_channels, side=3)

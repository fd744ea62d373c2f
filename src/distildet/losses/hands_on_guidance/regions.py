"""The boxes of a batch on the cells of any level, each computed once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.losses.feature_difference import cells_that_show_image
from distildet.losses.hands_on_guidance.micro_weights import region_weights
from distildet.losses.object_sizes import LevelSizes, nearest_places
from distildet.structures import ImageBatch, Targets

Cells = tuple[Tensor, Tensor, Tensor]
"""[b 1 h w] each: cells that show image, what they count for the boxes over them, and 1 for those
that overlap a box."""


class Regions:
    """What cells count for the boxes over them; levels of like size and place share it.

    Args:
        batch: The images.
        targets: One an image, batch frame.
        background: Factor of cells outside of boxes.
    """

    def __init__(self, batch: ImageBatch, targets: Sequence[Targets], background: float) -> None:
        self._batch = batch
        self._targets = targets
        self._background = background
        self._found: dict[tuple[int, int, int, LevelSizes | None], Cells] = {}
        # Sizes -> place of each box; to compute it anew would make a GPU wait.
        self._places: dict[LevelSizes, Tensor] = {}

    def cells(self, feature: Tensor, place: int, sizes: LevelSizes | None) -> Cells:
        """Return what the cells of a map count.

        Args:
            feature: [b c h w].
            place: Of its level, 0 for the finest: the boxes that it looks for are seen.
            sizes: Of the objects that each of the levels that share the boxes looks for; None: all
                boxes are seen.
        """
        key = (feature.shape[2], feature.shape[3], 0 if sizes is None else place, sizes)
        if key not in self._found:
            self._found[key] = self._cells(feature, place, sizes)
        return self._found[key]

    def _cells(self, feature: Tensor, place: int, sizes: LevelSizes | None) -> Cells:
        shown = cells_that_show_image(self._batch, feature)
        region, inside = region_weights(
            self._targets,
            shown,
            canvas=self._batch.canvas,
            background=self._background,
            seen=None if sizes is None else self._seen(place, sizes),
        )
        return shown, region, inside

    def _seen(self, place: int, sizes: LevelSizes) -> Sequence[Tensor]:
        boxes = [target.boxes for target in self._targets]
        if sizes not in self._places:
            self._places[sizes] = nearest_places(torch.cat(boxes), sizes)
        return (self._places[sizes] == place).split_with_sizes([len(own) for own in boxes])

"""The boxes of a batch on the cells of any level, each computed once."""

from collections.abc import Sequence

from torch import Tensor

from distildet.losses.feature_difference import cells_that_show_image
from distildet.losses.hands_on_guidance.micro_weights import region_weights
from distildet.losses.object_sizes import places_by_size
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
        self._found: dict[tuple[int, int, int | None, int], Cells] = {}
        # Number of levels -> place of each box; to compute it anew would make a GPU wait.
        self._places: dict[int, Tensor] = {}

    def cells(self, feature: Tensor, place: int | None, num_levels: int) -> Cells:
        """Return what the cells of a map count.

        Args:
            feature: [b c h w].
            place: Of its level, 0 for the finest: boxes of its size are seen. None: all are.
            num_levels: That share the boxes.
        """
        key = (feature.shape[2], feature.shape[3], place, num_levels)
        if key not in self._found:
            self._found[key] = self._cells(feature, place, num_levels)
        return self._found[key]

    def _cells(self, feature: Tensor, place: int | None, num_levels: int) -> Cells:
        shown = cells_that_show_image(self._batch, feature)
        region, inside = region_weights(
            self._targets,
            shown,
            canvas=self._batch.canvas,
            background=self._background,
            seen=None if place is None else self._seen(place, num_levels),
        )
        return shown, region, inside

    def _seen(self, place: int, num_levels: int) -> Sequence[Tensor]:
        boxes = [target.boxes for target in self._targets]
        if num_levels not in self._places:
            self._places[num_levels] = places_by_size(self._batch, boxes, num_levels)
        return (self._places[num_levels] == place).split_with_sizes([len(own) for own in boxes])

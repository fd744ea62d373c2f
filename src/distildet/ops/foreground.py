"""Boxes on the cells of a feature map: which are inside some box, and of which value."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


def inside_boxes(
    boxes: Sequence[Tensor],
    *,
    canvas: tuple[int, int],
    shape: tuple[int, int],
    seen: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return which cells of a map some box overlaps.

    A cell has the size of the canvas divided by that of the map. A box overlaps the cells that it
    shares area with, and at least one: without area, that in which it lies; off the canvas, the
    nearest.

    Args:
        boxes: Of each image [n 4] xyxy, pixels of the canvas.
        canvas: (height, width) of the padded images, in pixels.
        shape: (height, width) of the map, in cells.
        seen: Of each image [n] bool, the boxes that count; None: all. To leave boxes out of the
            list instead would make a GPU wait.

    Returns:
        [b 1 h w] bool on the boxes' device; false where an image has no boxes.

    Example:
        >>> box = torch.tensor([[0.0, 0, 9, 8]])
        >>> inside_boxes([box], canvas=(16, 24), shape=(2, 3)).tolist()
        [[[[True, True, False], [False, False, False]]]]
    """
    rows, columns = _overlapped(pad_sequence(list(boxes), batch_first=True), canvas, shape)
    rows &= _are_seen(boxes, seen)[:, :, None]  # [b n h]
    # The number of boxes in each cell, without a tensor of boxes times cells.
    counts = torch.einsum("bnh,bnw->bhw", rows.float(), columns.float())
    return (counts > 0)[:, None]  # [b 1 h w]


def painted(
    boxes: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    canvas: tuple[int, int],
    shape: tuple[int, int],
    seen: Sequence[Tensor] | None = None,
) -> Tensor:
    """Return a map that has, in each cell, the value of the smallest box that overlaps it.

    So a small object is seen in front of a large one. Which cells are inside a box, also one of
    value 0, `inside_boxes` tells, which says too what overlaps.

    Args:
        boxes: Of each image [n 4] xyxy, pixels of the canvas. Their order does not matter, except
            that of boxes with equal area the last is seen.
        values: Of each image [n], one a box, of any sign.
        canvas: (height, width) of the padded images, in pixels.
        shape: (height, width) of the map, in cells.
        seen: Of each image [n] bool, the boxes that count; None: all.

    Returns:
        [b 1 h w] float32 on the boxes' device; 0 outside of boxes.

    Raises:
        ValueError: An image has not as many values as boxes.

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 24, 8]])
        >>> painted([boxes], [torch.tensor([0.5, 1.0])], canvas=(8, 24), shape=(1, 3)).tolist()
        [[[[0.5, 1.0, 1.0]]]]
    """
    lengths = [len(own) for own in boxes], [len(own) for own in values]
    if lengths[0] != lengths[1]:
        raise ValueError(f"values are {lengths[1]} an image, expected {lengths[0]} as of boxes.")
    padded = pad_sequence(list(boxes), batch_first=True)  # [b n 4]
    order = _smallest_first(padded)
    chosen = order[:, :, None]
    rows, columns = _overlapped(padded.gather(1, chosen.expand_as(padded)), canvas, shape)
    rows &= _are_seen(boxes, seen).gather(1, order)[:, :, None]  # [b n h]
    # Behind all boxes lies, as another of value 0, what is outside of them.
    behind = order.shape[1]
    at_rows, at_columns = (_places(overlapped, behind) for overlapped in (rows, columns))
    # The first box that overlaps both row and column of a cell; argmax would be much slower.
    first = torch.maximum(at_rows[:, :, :, None], at_columns[:, :, None, :]).amin(1)  # [b h w]
    own = pad_sequence(list(values), batch_first=True).float().gather(1, order)  # [b n]
    return F.pad(own, (0, 1)).gather(1, first.flatten(1).long()).view(-1, 1, *shape)


def _places(overlapped: Tensor, behind: int) -> Tensor:
    """Return [b n+1 cells] int32, the place of a box where it is overlapped [b n cells].

    Elsewhere, and in the last place, what lies behind all boxes.
    """
    places = torch.arange(behind, device=overlapped.device, dtype=torch.int32)
    return F.pad(torch.where(overlapped, places[:, None], behind), (0, 0, 0, 1), value=behind)


def _are_seen(boxes: Sequence[Tensor], seen: Sequence[Tensor] | None) -> Tensor:
    """Return [b n], false for what is not seen, and what only pads an image with fewer boxes."""
    if seen is None:
        seen = [own.new_ones(len(own), dtype=torch.bool) for own in boxes]
    return pad_sequence(list(seen), batch_first=True)


def _smallest_first(boxes: Tensor) -> Tensor:
    """Return [b n], places of the boxes [b n 4] by area, of equal ones the last first."""
    areas = (boxes[:, :, 2:] - boxes[:, :, :2]).prod(2)  # [b n]
    backwards = areas.flip(1).argsort(dim=1, stable=True)
    return areas.shape[1] - 1 - backwards


def _overlapped(
    boxes: Tensor, canvas: tuple[int, int], shape: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Return the rows [b n h] and the columns [b n w] of cells that boxes [b n 4] overlap."""
    rows, columns = (
        _overlapped_along(boxes[:, :, axis::2], length / cells, cells)
        for axis, length, cells in ((1, canvas[0], shape[0]), (0, canvas[1], shape[1]))
    )
    return rows, columns


def _overlapped_along(ends: Tensor, size: float, cells: int) -> Tensor:
    """Return [b n cells], which cells of a size lie between the ends [b n 2], at least one."""
    first = (ends[:, :, :1] / size).floor().clamp(0, cells - 1)
    last = (ends[:, :, 1:] / size).ceil() - 1
    last = torch.maximum(last.clamp(max=cells - 1), first)
    places = torch.arange(cells, device=ends.device)
    return (places >= first) & (places <= last)  # [b n cells]

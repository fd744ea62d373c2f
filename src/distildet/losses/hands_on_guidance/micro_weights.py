"""What each cell of a level counts: objects, the rest, what the teacher looks at, what is hard."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.ops.foreground import inside_boxes, painted
from distildet.structures import Targets

MOST_HARDNESS = 4.0
"""Times its level's mean that a cell's difference counts at most."""


def region_weights(
    targets: Sequence[Targets],
    shown: Tensor,
    *,
    canvas: tuple[int, int],
    background: float,
    seen: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what cells count for the boxes over them: m + background * n, each of sum 1.

    m is one over the area of the smallest box that a cell overlaps, so that a small object counts
    as much as a large one; n is the same for all other cells. A human's ignore regions, where no
    box is, are neither.

    Args:
        targets: One an image, batch frame.
        shown: [b 1 h w], cells that show image.
        canvas: (height, width) of the padded images.
        background: Factor of n, 0 or more; an image in which no box is looked for has n alone,
            whatever it is.
        seen: Of each image [n] bool, the boxes that are looked for on this level; None: all.

    Returns:
        [b 1 h w] both: what cells count, and 1 for those that overlap a box.
    """
    shape = shown.shape[2], shown.shape[3]
    boxes = [target.boxes for target in targets]
    # A box with less area than a cell covers one.
    least_area = canvas[0] * canvas[1] / (shape[0] * shape[1])
    values = [
        1 / (own[:, 2:] - own[:, :2]).clamp(min=0).prod(1).clamp(min=least_area) for own in boxes
    ]
    foreground = painted(boxes, values, canvas=canvas, shape=shape, seen=seen) * shown
    inside = (foreground > 0).to(shown)
    ignored = [target.human_ignore for target in targets]
    left_open = inside_boxes(ignored, canvas=canvas, shape=shape)
    elsewhere = shown * (1 - inside) * ~left_open
    has_box = inside.amax((1, 2, 3), keepdim=True)
    factor = torch.where(has_box > 0, background, 1.0)
    return _with_sum_1(foreground) + factor * _with_sum_1(elsewhere), inside


def cell_weights(
    region: Tensor, size: Tensor, difference: Tensor, *, attention: float, hardness: float
) -> Tensor:
    """Return [b h w], what each cell counts: of sum 1 in each image that has any region.

    In proportion to region * exp(attention * a) * (1 + hardness * min(e / mean e, 4)); a: mean of
    |t| over the teacher's standardised channels, e: what student and teacher differ by there.

    Args:
        region: [b 1 h w], as `region_weights` returns it, 0 where a cell does not count.
        size: [b h w], a.
        difference: [b h w], e; no gradient goes through it.
        attention: 0 or more.
        hardness: 0 or more.
    """
    region = region[:, 0].flatten(1)  # [b cells]
    counts = region > 0
    logits = torch.where(counts, region, 1.0).log()
    if attention > 0:
        logits = logits + attention * size.flatten(1)
    if hardness > 0:
        error = difference.detach().flatten(1) * counts
        mean = error.sum(1, keepdim=True) / counts.sum(1, keepdim=True).clamp(min=1)
        least = torch.finfo(error.dtype).tiny
        relative = (error / mean.clamp(min=least)).clamp(max=MOST_HARDNESS)
        logits = logits + (1 + hardness * relative).log()
    # In logarithms nothing overflows, whatever the maps hold; an image without any region counts 0.
    shares = logits.masked_fill(~counts, torch.finfo(logits.dtype).min).softmax(1)
    return (shares * counts).view_as(difference)


def uniform_weights(shown: Tensor) -> Tensor:
    """Return [b h w], the same for each cell that shows image, of sum 1.

    Args:
        shown: [b 1 h w].
    """
    return _with_sum_1(shown)[:, 0]


def evenness(weights: Tensor, shown: Tensor) -> Tensor:
    """Return the scalar 0..1, 1 / Σ w² as a share of the cells, mean over images; 1 if all equal.

    Args:
        weights: [b h w], of sum 1 in each image.
        shown: [b 1 h w].
    """
    least = torch.finfo(weights.dtype).tiny
    effective = 1 / weights.square().sum((1, 2)).clamp(min=least)
    cells = shown.sum((1, 2, 3))
    return (effective / cells).clamp(max=1).mean()


def _with_sum_1(cells: Tensor) -> Tensor:
    """Return [b 1 h w] with a sum of 1 over each image, or 0 where it is 0."""
    total = cells.sum((2, 3), keepdim=True)
    return cells / torch.where(total > 0, total, 1.0)

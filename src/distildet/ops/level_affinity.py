"""How alike feature levels of two networks are, and which belong together."""

import torch
from torch import Tensor

_ROUNDING = 1e-6
"""Of a column, as a share of its largest value: what differs by less is the same everywhere."""


def linear_cka(own: Tensor, guide: Tensor) -> Tensor:
    """Return the linear centred kernel alignment of two descriptions of the same places.

    |X'Y|² / (|X'X| |Y'Y|) with Frobenius norms, of columns less their means. It does not change
    when either side is rotated, shifted or scaled as a whole.

    Args:
        own: [n c], features of n places.
        guide: [n d], other features of the same places.

    Returns:
        Scalar float32 in 0..1; 1 where one is the other, rotated and scaled; 0 where one of them
        is the same everywhere, or n is 0.

    Raises:
        ValueError: The numbers of places differ.

    Source:
        Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019, arXiv
        1905.00414, eq. 3 with linear kernels.

    Example:
        >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
        >>> round(float(linear_cka(x, x * 3 + 1)), 4)
        1.0
    """
    if len(own) != len(guide):
        raise ValueError(f"own has {len(own)} rows and guide {len(guide)}, expected as many.")
    if len(own) == 0:
        return torch.zeros(())
    x, y = _centred(own), _centred(guide)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    cross = (x.T @ y).square().sum()
    return torch.where(scale > 0, cross / scale, torch.zeros_like(cross))


def _centred(rows: Tensor) -> Tensor:
    """Return rows less their mean, scaled so that squares neither overflow nor vanish."""
    rows = rows.float()
    centred = rows - rows.mean(0)
    # The mean of equal values is not always that value, and what is left would be scaled up.
    varies = centred.abs().amax(0) > _ROUNDING * rows.abs().amax(0)
    centred = torch.where(varies, centred, 0.0)
    largest = centred.abs().max()
    return centred / torch.where(largest > 0, largest, torch.ones_like(largest))


def ordered_map(affinity: Tensor) -> list[int]:
    """Return for each row the column it belongs to, such that no two pairs cross.

    Columns may be taken by several rows or by none, but never fall from one row to the next. Among
    all such maps the sum of affinities is largest; of equal ones the first columns are taken.

    Args:
        affinity: [rows columns], at least one column.

    Example:
        >>> ordered_map(torch.tensor([[0.1, 0.9, 0.2], [0.8, 0.3, 0.4]]))
        [1, 2]
    """
    rows, columns = affinity.shape
    values = affinity.double().cpu().tolist()
    best = [0.0] * columns
    came_from: list[list[int]] = []
    for row in range(rows):
        # The best end of the rows before, at this column or before it.
        starts = [0] * columns
        for column in range(1, columns):
            before = starts[column - 1]
            starts[column] = column if best[column] > best[before] else before
        best = [values[row][column] + best[starts[column]] for column in range(columns)]
        came_from.append(starts)
    chosen: list[int] = []
    column = best.index(max(best))
    for starts in reversed(came_from):
        chosen.append(column)
        column = starts[column]
    return chosen[::-1]

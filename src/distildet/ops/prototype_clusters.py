"""Centres of groups of instances, in two feature spaces at once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """Centres of instances.

    Args:
        teacher: [k c_t], rows of unit norm, of the type of the features; 0 for a centre of
            instances that cancel each other.
        student: [k c_s] of the same centres.
        nearest: [k] int64, row of the instance nearest to each centre, none twice.
    """

    teacher: Tensor
    student: Tensor
    nearest: Tensor


@torch.no_grad()
def cluster_centres(
    teacher: Tensor,
    student: Tensor,
    number: int,
    *,
    generator: torch.Generator,
    iterations: int = 100,
) -> Clusters:
    """Find groups of instances that are alike for the teacher and for the student.

    K-means on the features of both side by side: as all have unit norm, both count alike. It starts
    with instances that are far from each other, and ends when no centre moves.

    Args:
        teacher: [n c_t], rows of unit norm, or 0 where an instance has no feature.
        student: [n c_s] of the same instances.
        number: Of the groups, 1..n.
        generator: Draws the start.
        iterations: The most, if the centres still move.

    Returns:
        The groups; the same for the same features and state of the generator. All is computed in
        float64 where the features are, which MPS does not have.

    Raises:
        ValueError: `number` is not 1..n.

    Source:
        Arthur and Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007, with
        the iterations of Lloyd, "Least Squares Quantization in PCM", 1982. Tang et al., "Distilling
        Object Detectors with Global Knowledge", ECCV 2022, arXiv 2210.09022, compare centres of
        K-means with their prototypes.
        Differs: centres are those of both spaces together.

    Example:
        >>> rows = torch.eye(2)[[0, 0, 1, 1, 1]]
        >>> groups = cluster_centres(rows, rows, 2, generator=torch.Generator().manual_seed(0))
        >>> sorted(groups.nearest.tolist())
        [0, 2]
    """
    if not 1 <= number <= len(teacher):
        raise ValueError(f"number is {number}, expected is 1..{len(teacher)}, one an instance.")
    channels = teacher.shape[1]
    rows = torch.cat([teacher, student], dim=1).double()  # [n, c_t + c_s]
    centres = rows[spread_rows(rows, number, generator=generator)]
    for _ in range(iterations):
        before, centres = centres, moved_centres(rows, centres)
        if centres.equal(before):
            break
    own, other = F.normalize(centres[:, :channels]), F.normalize(centres[:, channels:])
    return Clusters(
        teacher=own.to(teacher.dtype),
        student=other.to(student.dtype),
        nearest=_nearest(rows, torch.cat([own, other], dim=1)),
    )


def spread_rows(rows: Tensor, number: int, *, generator: torch.Generator) -> Tensor:
    """Draw rows, each with a chance that grows with its squared distance from those before it.

    Args:
        rows: [n d].
        number: How many, 1..n.
        generator: Draws.

    Returns:
        [number] int64, none twice; rows equal to one drawn before come last.

    Example:
        >>> rows = torch.tensor([[0.0], [0.0], [0.0], [9.0]])
        >>> generator = torch.Generator().manual_seed(0)
        >>> sorted(spread_rows(rows, 2, generator=generator).tolist())[1]
        3
    """
    distances = rows.new_ones(len(rows))  # the first has the same chance everywhere
    is_free = torch.ones_like(distances, dtype=torch.bool)
    drawn: list[Tensor] = []
    for _ in range(number):
        chances = distances if distances.any() else is_free.to(distances)
        index = torch.multinomial(chances.to(generator.device), 1, generator=generator)
        index = index.to(rows.device)
        from_it = _squared_distances(rows, rows[index])
        distances = torch.minimum(distances, from_it) if drawn else from_it
        is_free[index] = False
        drawn.append(index)
    return torch.cat(drawn)


def moved_centres(rows: Tensor, centres: Tensor) -> Tensor:
    """Return the means of the rows that are nearest to each centre: one iteration of Lloyd.

    A centre that is nearest to no row moves to the row that is farthest from its own centre. The
    sum of squared distances to the nearest centre never rises.

    Args:
        rows: [n d].
        centres: [k d], k of 1..n.

    Returns:
        [k d]; a centre that lost its only row to another one stays.

    Example:
        >>> rows = torch.tensor([[0.0], [2.0], [9.0]])
        >>> moved_centres(rows, torch.tensor([[0.0], [8.0]])).tolist()
        [[1.0], [9.0]]
    """
    # ||x - c||^2 less ||x||^2, which does not change which centre is nearest.
    scores = torch.addmm(centres.square().sum(1), rows, centres.T, alpha=-2)  # [n k]
    nearest = scores.argmin(1)  # [n], the lowest of equal ones
    is_empty = torch.bincount(nearest, minlength=len(centres)) == 0  # [k]
    distances = _squared_distances(rows, centres[nearest])
    farthest = distances.argsort(descending=True, stable=True)[: int(is_empty.sum())]
    nearest[farthest] = is_empty.nonzero().squeeze(1)
    belongs = F.one_hot(nearest, len(centres)).to(rows)  # [n k]
    counts = belongs.sum(0).unsqueeze(1)  # [k 1]
    return torch.where(counts > 0, (belongs.T @ rows) / counts.clamp(min=1), centres)


def _squared_distances(rows: Tensor, others: Tensor) -> Tensor:
    """Return ||x - y||^2 of pairs, or from one, [n]; exactly 0 for equal ones."""
    return (rows - others).square().sum(1)


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """Return for each centre in turn the nearest row that no centre before it took, [k]."""
    is_free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    taken = []
    for centre in centres:
        distances = _squared_distances(rows, centre)
        index = distances.where(is_free, torch.inf).argmin()  # the lowest of equal ones
        is_free[index] = False
        taken.append(index)
    return torch.stack(taken)

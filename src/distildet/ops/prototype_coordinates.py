"""Coordinates of features relative to prototypes, as linear maps of unit features."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Projection = Literal["cosine", "ridge", "pursuit"]
RIDGE = 1e-2


def unit_rows(features: Tensor) -> Tensor:
    """Return features [n c] in float32 with norm 1; a row of zeros stays as it is."""
    rows: Tensor = F.normalize(features.float(), dim=1)
    return rows


def projection_map(prototypes: Tensor, projection: Projection) -> Tensor:
    """Return the matrix whose product with a unit feature is its coordinates.

    Formula:
        G: prototypes, one a row. "cosine": G. "ridge": (G G' + 0.01 I)^-1 G, the coefficients w
        that minimise |f - G' w|² + 0.01 |w|². "pursuit": L^-1 G, L being the lower triangle of
        G G' with its diagonal: the coefficients of matching pursuit, f losing the part along one
        prototype before the next, in their order.

    Args:
        prototypes: [k c], rows of norm 1.
        projection: Kind of coordinates.

    Returns:
        [k c], of the type of `prototypes`.
    """
    if projection == "cosine" or not len(prototypes):
        return prototypes
    gram = prototypes @ prototypes.T
    if projection == "ridge":
        identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved: Tensor = torch.linalg.solve(gram + RIDGE * identity, prototypes)
        return solved
    # The diagonal is 1 but for rounding, and is taken to be.
    found: Tensor = torch.linalg.solve_triangular(
        gram.tril(), prototypes, upper=False, unitriangular=True
    )
    return found


def coordinates(features: Tensor, maps: Tensor, labels: Tensor) -> Tensor:
    """Return each instance's coordinates relative to the prototypes of its class.

    Args:
        features: [n c], rows of norm 1.
        maps: [classes k c], each as `projection_map` returns it; rows of zeros give 0.
        labels: [n] int64.

    Returns:
        [n k].
    """
    found: Tensor = (maps[labels] @ features[:, :, None]).squeeze(2)
    return found


def reliability_of_distance(own: Tensor, guide: Tensor) -> Tensor:
    """Return 1 - |phi_s - phi_t|, within 0..1, without gradient.

    Args:
        own: [n k], coordinates in the student's space.
        guide: [n k], in the teacher's.

    Returns:
        [n].
    """
    distance: Tensor = torch.linalg.vector_norm((own - guide).detach(), dim=1)
    return (1 - distance).clamp(0, 1)


def reliability_of_best(own: Tensor, guide: Tensor, counted: Tensor) -> Tensor:
    """Return 1 - |max_j c_s - max_j c_t| over counted prototypes, within 0..1, without gradient.

    Args:
        own: [n k], cosines in the student's space.
        guide: [n k], in the teacher's.
        counted: [n k] bool, prototypes of the instance's class; without any, the result is 1.

    Returns:
        [n].
    """
    least = torch.finfo(own.dtype).min
    best = [one.detach().masked_fill(~counted, least).amax(1) for one in (own, guide)]
    return (1 - (best[0] - best[1]).abs()).clamp(0, 1)

"""Which instances have enough others near them, in two feature spaces at once."""

import torch
from torch import Tensor

CHUNK = 2**22  # cosines at once, in 32 MB; fewer make the product slower
# Densities that differ by less, as a share, differ by rounding alone.
ROUNDING = 1e-9


@torch.no_grad()
def dense_enough(
    teacher: Tensor,
    student: Tensor,
    *,
    percentile: float = 0.4,
    bandwidth: float = 0.1,
    at_least: int = 1,
) -> Tensor:
    """Return which instances lie where others are, for the teacher and for the student.

    Formula:
        rho_i = Σ_j exp(-((1 - cos_ij) / bandwidth)^2) in each space, j = i included; kept are those
        at or above the percentile of rho in both. If they are too few, those are added whose lower
        rank of the two is highest; of equal ones the lowest row.

    Args:
        teacher: [n c_t], rows of unit norm, or 0 where an instance has no feature.
        student: [n c_s] of the same instances.
        percentile: Share of the instances that are not dense enough in one space, 0..1.
        bandwidth: Of the differences from a cosine of 1, > 0.
        at_least: How many are kept in any case.

    Returns:
        [n] bool. Densities are computed in float64 where the features are, which MPS does not have,
        some rows at a time.

    Raises:
        ValueError: There are fewer than `at_least` instances.

    Source:
        Tang et al., "Distilling Object Detectors with Global Knowledge", ECCV 2022,
        arXiv 2210.09022; constants from the authors' code, which keeps those above the
        percentile.
        Checked against: a loop over all pairs of instances.
        Differs: at the percentile counts, else equal instances could all be left out; `at_least`.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> dense_enough(rows, rows).tolist()
        [True, True, False]
    """
    if at_least > len(teacher):
        raise ValueError(f"at_least is {at_least}, but there are {len(teacher)} instances.")
    if len(teacher) == 0:
        return teacher.new_zeros(0, dtype=torch.bool)
    densities = [density(rows, bandwidth) for rows in (teacher, student)]
    in_both = torch.stack([_is_dense(each, percentile) for each in densities]).all(0)  # [n]
    # All that are kept already rank above the others, so that these complete them.
    lower = torch.stack([_ranks(each) for each in densities]).amin(0)  # [n]
    in_both[lower.argsort(descending=True, stable=True)[:at_least]] = True
    return in_both


def density(rows: Tensor, bandwidth: float) -> Tensor:
    """Return how many rows point where each row does, near ones counting more.

    Args:
        rows: [n c] of unit norm, or 0.
        bandwidth: Of the differences from a cosine of 1, > 0.

    Returns:
        [n] float64, 1..n; near 0 for a row of 0.

    Example:
        >>> density(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 0.1).tolist()
        [2.0, 2.0, 1.0]
    """
    rows = rows.double()
    found = rows.new_empty(len(rows))
    # One buffer for all: memory that is asked for and given back in turn can pile up.
    step = max(1, CHUNK // max(1, len(rows)))
    buffer = rows.new_empty(min(step, len(rows)), len(rows))
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        cosines = torch.mm(some, rows.T, out=buffer[: len(some)])  # [m n]
        kernel = cosines.sub_(1).div_(bandwidth).square_().neg_().exp_()
        torch.sum(kernel, 1, out=found[start : start + len(some)])
    return found


def _is_dense(densities: Tensor, percentile: float) -> Tensor:
    bound = densities.quantile(percentile)
    return densities >= bound * (1 - ROUNDING)


def _ranks(densities: Tensor) -> Tensor:
    """Return how many are less dense than each, [n]."""
    return torch.searchsorted(densities.sort().values, densities * (1 - ROUNDING))

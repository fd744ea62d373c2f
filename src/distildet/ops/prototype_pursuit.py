"""Greedy choice of the instances that explain all others best, in two feature spaces at once."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Gains that differ by less, as a share of the objective at the start, differ by rounding alone.
ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class Pursuit:
    """What a pursuit chose, in the order of its steps.

    Args:
        indices: [k] int64, rows of the instances, none twice.
        gains: [k] float64, by how much each step lowered the objective, >= 0.
    """

    indices: Tensor
    gains: Tensor


@torch.no_grad()
def pursue(
    teacher: Tensor,
    student: Tensor,
    number: int,
    *,
    agreement: float = 10.0,
    candidates: Tensor | None = None,
) -> Pursuit:
    """Choose instances by matching pursuit in the space of the teacher and of the student.

    Each step adds the instance that lowers the objective most. It is no projection: what was
    chosen before keeps its coordinates, so that a step may gain more than the one before it.

    Formula:
        objective = ||F^t - W^t G^t||^2 + ||F^s - W^s G^s||^2 + agreement ||W^s - W^t||^2, G the
        chosen rows of F, W [n k] the coordinates. A step has, with the residuals R, the candidate
        k's rows g and a = R^t g^t, b = R^s g^s, for rows of unit norm
        gain_k = Σ_i [(1 + agreement) (a_i^2 + b_i^2) + 2 agreement a_i b_i] / (1 + 2 agreement);
        the sums are g^t'(R^t'R^t)g^t, g^s'(R^s'R^s)g^s and g^t'(R^t'R^s)g^s, found once for all
        instances and then kept up to date, in memory that grows with n.

    Args:
        teacher: [n c_t], rows of unit norm, or 0 where an instance has no feature.
        student: [n c_s] of the same instances.
        number: How many to choose.
        agreement: How much both coordinates of an instance are held together, > 0.
        candidates: [n] bool, which may be chosen; None for all. All n count in the objective.

    Returns:
        The choice. Of equal gains the lowest row wins, rounding aside. All is computed in float64
        where the features are, which MPS does not have.

    Raises:
        ValueError: More are wanted than there are candidates, or `agreement` is not above 0.

    Source:
        Tang et al., "Distilling Object Detectors with Global Knowledge", ECCV 2022,
        arXiv 2210.09022, prototype generation module.
        Checked against: minimising the objective by least squares for every candidate and step.
        Differs: no instance is chosen twice; the choice is the same as that of the products of
        all instances with all, found through the matrices of channels, and in float64.

    Example:
        >>> rows = torch.eye(3)[[0, 1, 1, 1, 2, 2]]
        >>> pursue(rows, rows, 2).indices.tolist()
        [1, 4]
    """
    if not agreement > 0:
        raise ValueError(f"agreement is {agreement}, expected is a number above 0.")
    is_open = teacher.new_ones(len(teacher), dtype=torch.bool)
    if candidates is not None:
        is_open &= candidates
    if number > int(is_open.sum()):
        raise ValueError(f"number is {number}, but there are {int(is_open.sum())} candidates.")
    spaces = _Spaces(teacher.double(), student.double(), agreement)
    margin = ROUNDING * spaces.objective
    indices, gains = [], []
    for _ in range(number):
        gain = spaces.gains().where(is_open, -torch.inf)
        chosen = (gain >= gain.max() - margin).int().argmax()
        spaces.explain_by(chosen)
        is_open[chosen] = False
        indices.append(chosen)
        gains.append(gain[chosen])
    return Pursuit(
        indices=torch.stack(indices) if indices else is_open.new_zeros(0, dtype=torch.int64),
        gains=torch.stack(gains) if gains else spaces.teacher.new_zeros(0),
    )


class _Spaces:
    """The instances in both spaces, with what the chosen ones leave unexplained of them."""

    def __init__(self, teacher: Tensor, student: Tensor, agreement: float) -> None:
        self.teacher, self.student = teacher, student
        self.teacher_rest, self.student_rest = teacher.clone(), student.clone()
        self.agreement = agreement
        # The coordinates solve [[p, -agreement], [-agreement, q]] w = (a, b). The squared norms are
        # those of the rows, so that rows of 0 and the rounding of float32 norms need no rule.
        norms, other_norms = teacher.square().sum(1), student.square().sum(1)  # [n]
        self.p, self.q = norms + agreement, other_norms + agreement
        determinant = norms * other_norms + agreement * (norms + other_norms)
        self.scale = torch.where(determinant > 0, 1 / determinant, 0)  # 0 explains nothing
        self.objective = norms.sum() + other_norms.sum()
        # Σ a^2, Σ b^2 and Σ a b of every instance, [n] each: the norms and the product of R g.
        self.aa = ((teacher @ (teacher.T @ teacher)) * teacher).sum(1)
        self.bb = ((student @ (student.T @ student)) * student).sum(1)
        self.ab = ((teacher @ (teacher.T @ student)) * student).sum(1)

    def gains(self) -> Tensor:
        """Return by how much each instance would lower the objective, [n]."""
        gains = self.q * self.aa + self.p * self.bb + 2 * self.agreement * self.ab
        return (self.scale * gains).clamp(min=0)  # rounding can leave -1e-12

    def explain_by(self, chosen: Tensor) -> None:
        """Take from every instance its share of a chosen one."""
        g, h = self.teacher[chosen], self.student[chosen]
        rest, other = self.teacher_rest, self.student_rest
        a, b = rest @ g, other @ h  # [n]
        u = self.scale[chosen] * (self.q[chosen] * a + self.agreement * b)  # w^t
        v = self.scale[chosen] * (self.p[chosen] * b + self.agreement * a)  # w^s
        # R becomes R - w g', and R g_k becomes R g_k - w (g'g_k): no matrix of channels is
        # multiplied again.
        c, d = self.teacher @ g, self.student @ h  # [n]
        self.aa += c * (c * (u @ u) - 2 * (self.teacher @ (u @ rest)))
        self.bb += d * (d * (v @ v) - 2 * (self.student @ (v @ other)))
        self.ab += c * d * (u @ v) - c * (self.student @ (u @ other))
        self.ab -= d * (self.teacher @ (v @ rest))
        rest.addr_(u, g, alpha=-1)
        other.addr_(v, h, alpha=-1)

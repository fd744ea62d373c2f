"""Divergences between the predictions of a teacher and a student.

All take logits, never probabilities: of a probability that has been rounded to 0 or 1 there is no
logarithm.

Where student and teacher nearly agree, a divergence and its derivative would be lost as differences
of logarithms and of probabilities; here both are computed from d, the student's logit less the
teacher's, and the derivative is given to autograd beside the value.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# From this logit on, log(1 + exp(logit)) is the logit, and its exponential is still finite.
LARGE_LOGIT = 60.0


def small_gap(dtype: torch.dtype) -> float:
    """Return up to which d a divergence is best computed from the first terms of its series.

    Args:
        dtype: float32 or float64.

    Returns:
        0.25 or 0.009: what the series leaves out grows with the fifth power of d, what rounding
        takes from the other formulas with 1 / d.

    Example:
        >>> round(small_gap(torch.float32), 3)
        0.246
    """
    return float(3.5 * torch.finfo(dtype).eps ** (1 / 6))


class _WithGradient(torch.autograd.Function):
    """Gives a value the derivative by the logits that was computed together with it."""

    @staticmethod
    def forward(ctx: Any, _: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of a divergence has no gradient of its own. Found create_graph=True "
                "in the backward pass; leave it out."
            )
        (gradient,) = ctx.saved_tensors
        return factor * gradient, None, None


def binary_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of yes-or-no predictions from those of a teacher.

    Formula:
        KL = q log(q/p) + (1-q) log((1-q)/(1-p)), p = sigmoid(logits), q = sigmoid(teacher_logits);
        the derivative by a logit is p - q.

    Args:
        logits: Of the student, of any shape, float32 or float64.
        teacher_logits: Of the same shape and type; gets no gradient.

    Returns:
        Of the same shape, in nats, >= 0, 0 where both are equal; finite for all logits of at most
        1e37. Of float32 sums of many are within 1e-6 of those in float64, relatively, and the
        gradient is within 1e-6 of its largest element, however near the two are.

    Raises:
        RuntimeError: In the backward pass, if it shall have a gradient itself.

    Example:
        >>> import torch
        >>> binary_kl(torch.tensor([0.0, 2.0]), torch.tensor([100.0, 2.0]))
        tensor([0.6931, 0.0000])
    """
    with torch.no_grad():
        value, gradient = _binary_kl(logits, teacher_logits)
    result: Tensor = _WithGradient.apply(logits, value, gradient)
    return result


def _binary_kl(logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence and p - q; see `distildet.ops.adaptive_sums` for the same in blocks."""
    # Neither the divergence nor the size of p - q changes if both logits change their sign. Of the
    # teacher's none shall be positive, so that no digits of 1 - q are lost.
    sign = torch.copysign(torch.ones_like(teacher_logits), -teacher_logits)
    u, v = teacher_logits * sign, logits * sign
    q, p, gap = u.sigmoid(), v.sigmoid(), v - u
    both = p + q
    difference = (gap / 2).tanh() * (both - 2 * p * q)  # p - q; no part of the factor is negative
    capped = v.clamp(max=LARGE_LOGIT)
    large = (difference / (-capped).sigmoid()).log1p() + (v - capped) - q * gap
    d = gap.clamp(-1, 1)  # finite powers of what the series is not for
    z = (1 - both) * d
    small = difference * d * (0.5 - z / 12 + z * (3 * z * z - 2 * d * d) / 720)
    value = torch.where(gap.abs() < small_gap(gap.dtype), small, large)
    return value.clamp(min=0), difference * sign  # rounding can leave -1e-45


def softmax_entropy(logits: Tensor) -> Tensor:
    """Return how undecided each of many choices between the same columns is.

    Args:
        logits: [n k], k at least 2, float32 or float64; softmax gives the probabilities.

    Returns:
        [n], 0..log 2, whatever k is: the entropy in nats, divided by its most (log k) and
        multiplied by log 2, so that it is that of a yes-or-no prediction where k is 2.

    Example:
        >>> import torch
        >>> softmax_entropy(torch.tensor([[0.0, 0.0, 0.0], [0.0, 1e4, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    logs = F.log_softmax(logits, dim=1)
    entropy = (logs.exp() * -logs).sum(1)  # [n]
    return entropy * (math.log(2) / math.log(logits.shape[1]))


def softmax_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of choices from those of a teacher.

    Formula:
        KL = sum q log(q/p) over the columns, p = softmax(logits), q = softmax(teacher_logits); the
        derivative by a logit is p - q.

    Args:
        logits: [n k] of the student, float32 or float64.
        teacher_logits: [n k], of the same type; gets no gradient.

    Returns:
        [n] in nats, >= 0, 0 where both are equal; finite for all logits of at most 1e37. As exact
        as `binary_kl`.

    Raises:
        RuntimeError: In the backward pass, if it shall have a gradient itself.

    Example:
        >>> import torch
        >>> softmax_kl(
        ...     torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([[0.0, 100.0], [2.0, 1.0]])
        ... )
        tensor([0.6931, 0.0000])
    """
    with torch.no_grad():
        value, gradient = _softmax_kl(logits, teacher_logits)
    result: Tensor = _WithGradient.apply(logits, value, gradient)
    return result.squeeze(1)


def _softmax_kl(logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the divergence [n 1] and p - q [n k]."""
    p, q = logits.softmax(1), teacher_logits.softmax(1)
    gap = logits - teacher_logits
    # What rounding took from the gap: much of it, if one side's logits are all larger by a number.
    back = gap - logits
    rounding = (logits - (gap - back)) - (teacher_logits + back)
    # log(p/q) is the gap less one number for all columns, found by the probabilities that sum up to
    # the same: p - q is tanh(log(p/q) / 2) (p + q). A step of Newton's method mends the rounding of
    # the first guess.
    total, guide_total = (one.logsumexp(1, keepdim=True) for one in (logits, teacher_logits))
    ratio = gap - (total - guide_total) + rounding
    ratio = ratio - ((p + q) * (ratio / 2).tanh()).sum(1, keepdim=True)
    difference = (p + q) * (ratio / 2).tanh()
    # KL is the sum of p - q - q log(p/q), of which no column is negative; small ones are
    # q (exp x - 1 - x).
    large = difference - q * ratio
    x = ratio.clamp(-1, 1)  # finite powers of what the series is not for
    small = q * x * x * (1 / 2 + x / 6 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6))))
    columns = torch.where(ratio.abs() < small_gap(ratio.dtype), small, large)
    return columns.clamp(min=0).sum(1, keepdim=True), difference

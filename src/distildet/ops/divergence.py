"""Divergences between the predictions of a teacher and a student.

All take logits, never probabilities: of a probability that has been rounded to 0 or 1 there is no
logarithm.
"""

import math

from torch import Tensor
from torch.nn import functional as F


def binary_entropy(logits: Tensor) -> Tensor:
    """Return how undecided each of many yes-or-no predictions is.

    Args:
        logits: Of any shape, float32 or float64; sigmoid gives the probability of yes.

    Returns:
        Of the same shape, in nats, 0..log 2.

    Example:
        >>> import torch
        >>> binary_entropy(torch.tensor([0.0, 2.0]))
        tensor([0.6931, 0.3653])
    """
    return -(logits.sigmoid() * F.logsigmoid(logits) + (-logits).sigmoid() * F.logsigmoid(-logits))


def binary_kl(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of yes-or-no predictions from those of a teacher.

    Formula:
        KL = q log(q/p) + (1-q) log((1-q)/(1-p)), p = sigmoid(logits), q = sigmoid(teacher_logits);
        the derivative by a logit is p - q.

    Args:
        logits: Of the student, of any shape, float32 or float64.
        teacher_logits: Of the same shape and type; gets no gradient.

    Returns:
        Of the same shape, in nats, >= 0, 0 where both are equal; finite for all finite logits.

    Example:
        >>> import torch
        >>> binary_kl(torch.tensor([0.0, 2.0]), torch.tensor([100.0, 2.0]))
        tensor([0.6931, 0.0000])
    """
    guide = teacher_logits.detach()
    # Differences of logarithms that are each exact: sums over softplus of the logits themselves
    # would leave 1e-6 of a value of 1e-7 where both are nearly certain.
    yes = guide.sigmoid() * (F.logsigmoid(guide) - F.logsigmoid(logits))
    no = (-guide).sigmoid() * (F.logsigmoid(-guide) - F.logsigmoid(-logits))
    divergence = yes + no
    # Rounding can leave -1e-8. What is missing is added rather than clamped, for clamping would
    # take the gradient away.
    return divergence + (-divergence.detach()).clamp(min=0)


def softmax_entropy(logits: Tensor) -> Tensor:
    """Return how undecided each of many choices between the same columns is.

    Args:
        logits: [n k], k at least 2, float32 or float64; softmax gives the probabilities.

    Returns:
        [n], 0..log 2, whatever k is: the entropy in nats, divided by its most (log k) and
        multiplied by log 2, so that it is `binary_entropy` of two columns.

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
        [n] in nats, >= 0, 0 where both are equal; finite for all logits of at most 1e37.

    Example:
        >>> import torch
        >>> softmax_kl(
        ...     torch.tensor([[0.0, 0.0], [2.0, 1.0]]), torch.tensor([[0.0, 100.0], [2.0, 1.0]])
        ... )
        tensor([0.6931, 0.0000])
    """
    guide = F.log_softmax(teacher_logits.detach(), dim=1)
    divergence = (guide.exp() * (guide - F.log_softmax(logits, dim=1))).sum(1)  # [n]
    # Added rather than clamped, as in `binary_kl`.
    return divergence + (-divergence.detach()).clamp(min=0)

"""Divergences between the predictions of a teacher and a student.

All take logits, never probabilities: of a probability that has been rounded to 0 or 1 there is no
logarithm.
"""

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

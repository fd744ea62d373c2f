"""Divergences between the predictions of a teacher and a student, and weights made of them.

All take logits, never probabilities: of a probability that has been rounded to 0 or 1 there is no
logarithm.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

AdaptiveForm = Literal["paper", "official"]


def binary_entropy(logits: Tensor) -> Tensor:
    """Return how undecided each of many yes-or-no predictions is.

    Args:
        logits: Of any shape, float32 or float64; sigmoid gives the probability of yes.

    Returns:
        Of the same shape, in nats, 0..log 2.

    Example:
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


def adaptive_divergence(
    logits: Tensor, teacher_logits: Tensor, *, form: AdaptiveForm, beta: float, gamma: float
) -> Tensor:
    """Return the divergence of yes-or-no predictions, weighted by how hard each is to learn.

    Formula:
        A * KL in the form "paper", A * (KL + T) / 2 in the form "official";
        A = (1 - exp(-(KL + beta T)))^gamma, T the teacher's entropy. The gradient flows through A
        too: by a logit it is (p - q) * (gamma (1 - e)^(gamma-1) e B + A * dB/dKL), where e is
        exp(-(KL + beta T)) and B is what A multiplies.

    Args:
        logits: Of the student, of any shape, float32 or float64.
        teacher_logits: Of the same shape and type; gets no gradient.
        form: Of the loss; see above.
        beta: Share of the teacher's entropy in the weight, >= 0.
        gamma: Power of the weight, >= 0; 0 leaves it out.

    Returns:
        Of the same shape, in nats, >= 0; value and gradient are finite for all finite logits.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366.

    Example:
        >>> adaptive_divergence(
        ...     torch.tensor([0.0]), torch.tensor([100.0]), form="paper", beta=1.0, gamma=2.0
        ... )
        tensor([0.1733])
    """
    divergence = binary_kl(logits, teacher_logits)
    entropy = binary_entropy(teacher_logits.detach())
    hardness = -torch.expm1(-(divergence + beta * entropy))  # 0..1
    # At 0 a power below 1 has an infinite slope, and infinity times 0 is no number.
    weight = hardness.clamp(min=torch.finfo(hardness.dtype).tiny).pow(gamma)
    return weight * (divergence if form == "paper" else (divergence + entropy) / 2)

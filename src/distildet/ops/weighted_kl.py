"""Weights of divergences that the loss `adaptive` is compared with."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from distildet.ops.divergence import binary_kl
from distildet.structures import LEFT_OUT

KlWeighting = Literal["focal", "hard", "none"]


def weighted_kl(
    logits: Tensor,
    teacher_logits: Tensor,
    is_object: Tensor,
    *,
    weighting: KlWeighting,
    gamma: float,
) -> Tensor:
    """Return the divergence of yes-or-no predictions from those of a teacher, each weighted.

    A plain composition of tensor operations, which holds several tensors of the size of the logits;
    see `distildet.ops.adaptive_sums` for the loss that is trained with.

    Formula:
        "none": KL; "hard": (1 - exp(-KL))^gamma KL, more where the two disagree; "focal":
        (1 - p_t)^gamma KL, more where the student is far from the label, where p_t is its
        probability p of an object and 1 - p elsewhere. The gradient flows through the weights too.

    Args:
        logits: Of the student, of any shape, float32 or float64.
        teacher_logits: Of the same shape and type; gets no gradient.
        is_object: Of the same shape, bool, whether yes is the label; read by "focal" alone.
        weighting: Which weight.
        gamma: Its power, >= 0; 0 weighs all the same.

    Returns:
        Of the same shape, in nats, >= 0, 0 where both are equal; finite for all finite logits.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366, which compares them with its own.

    Example:
        >>> weighted_kl(
        ...     torch.zeros(2),
        ...     torch.tensor([100.0, 0.0]),
        ...     torch.tensor([True, False]),
        ...     weighting="hard",
        ...     gamma=2.0,
        ... )
        tensor([0.1733, 0.0000])
    """
    divergence = binary_kl(logits, teacher_logits)
    if weighting == "none":
        return divergence
    if weighting == "focal":
        # As an exponential: the power has an infinite slope at 0 where gamma is below 1.
        return divergence * (gamma * F.logsigmoid(torch.where(is_object, -logits, logits))).exp()
    # At least tiny, for the same reason: what is clamped has the slope 0.
    hardness = (-torch.expm1(-divergence)).clamp(min=torch.finfo(divergence.dtype).tiny)
    return divergence * hardness.pow(gamma)


def weighted_kl_sums(
    logits: Tensor,
    teacher_logits: Tensor,
    part: Tensor,
    *,
    matched: Tensor,
    known: Tensor,
    labels: tuple[Tensor, Tensor],
    weighting: KlWeighting,
    gamma: float,
    theta: float,
) -> tuple[Tensor, Tensor]:
    """Return the sum of weighted divergences over priors and classes, and the teacher's mass.

    Formula:
        value = Σ `weighted_kl`, mass = Σ q^theta, q the teacher's probability. With "focal" both
        leave out what has no label: priors matched to nothing and classes nobody looked for.

    Args:
        logits: [b n k_s] of the student, of any float type.
        teacher_logits: [b n k_t] of the teacher; gets no gradient.
        part: [b n], which priors take part.
        matched: [b n], label of the student's that a prior is matched to, BACKGROUND or LEFT_OUT.
        known: [b k_s], which classes of the student somebody looked for in an image.
        labels: [m] of the student and [m] of the teacher, which mean the same classes.
        weighting: Which weight; see `weighted_kl`.
        gamma: Its power, >= 0.
        theta: Power of the teacher's probabilities in the mass, >= 0.

    Returns:
        The value, a scalar in nats, >= 0, with gradient to `logits`; and the mass, a scalar without
        gradient. Both in float32, in float64 of such logits; 0 of nothing.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    own = logits.to(dtype).index_select(2, labels[0])  # [b n m]
    guide = teacher_logits.detach().to(dtype).index_select(2, labels[1])  # [b n m]
    counts = part[:, :, None]  # [b n 1]
    if weighting == "focal":
        # What is neither object nor background has no label to be far from.
        has_label = (matched != LEFT_OUT)[:, :, None]
        counts = counts & has_label & known[:, None, labels[0]]  # [b n m]
    is_object = matched[:, :, None] == labels[0]  # [b n m]
    divergence = weighted_kl(own, guide, is_object, weighting=weighting, gamma=gamma)
    return (divergence * counts).sum(), (guide.sigmoid().pow(theta) * counts).sum()

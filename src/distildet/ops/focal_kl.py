"""The divergence that the loss `adaptive` is compared with: weighted as the focal loss weighs."""

import torch
from torch import Tensor
from torch.nn import functional as F

from distildet.ops.divergence import binary_kl
from distildet.structures import LEFT_OUT


def focal_kl(logits: Tensor, teacher_logits: Tensor, is_object: Tensor, *, gamma: float) -> Tensor:
    """Return the divergence of yes-or-no predictions from a teacher's, more where labels are far.

    A plain composition of tensor operations, which holds several tensors of the size of the logits;
    see `distildet.ops.adaptive_sums` for the loss that is trained with.

    Formula:
        (1 - p_t)^gamma KL, where p_t is the student's probability p of an object and 1 - p
        elsewhere. The gradient flows through the weight too.

    Args:
        logits: Of the student, of any shape, float32 or float64.
        teacher_logits: Of the same shape and type; gets no gradient.
        is_object: Of the same shape, bool, whether yes is the label.
        gamma: Power of the weight, >= 0; 0 weighs all the same.

    Returns:
        Of the same shape, in nats, >= 0, 0 where both are equal; finite for all finite logits.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366, which compares it with its own.

    Example:
        >>> focal_kl(
        ...     torch.zeros(2), torch.tensor([100.0, 0.0]), torch.tensor([True, False]), gamma=2.0
        ... )
        tensor([0.1733, 0.0000])
    """
    # As an exponential: the power has an infinite slope at 0 where gamma is below 1.
    log_distance = F.logsigmoid(torch.where(is_object, -logits, logits))
    return binary_kl(logits, teacher_logits) * (gamma * log_distance).exp()


def focal_kl_sums(
    logits: Tensor,
    teacher_logits: Tensor,
    part: Tensor,
    *,
    matched: Tensor,
    known: Tensor,
    labels: tuple[Tensor, Tensor],
    gamma: float,
    theta: float,
) -> tuple[Tensor, Tensor]:
    """Return the sum of `focal_kl` over priors and classes, and the teacher's mass.

    Formula:
        value = Σ `focal_kl`, mass = Σ q^theta, q the teacher's probability. Both leave out what
        has no label: priors matched to nothing and classes nobody looked for.

    Args:
        logits: [b n k_s] of the student, of any float type.
        teacher_logits: [b n k_t] of the teacher; gets no gradient.
        part: [b n], which priors take part.
        matched: [b n], label of the student's that a prior is matched to, BACKGROUND or LEFT_OUT.
        known: [b k_s], which classes of the student somebody looked for in an image.
        labels: [m] of the student and [m] of the teacher, which mean the same classes.
        gamma: Power of the weight, >= 0.
        theta: Power of the teacher's probabilities in the mass, >= 0.

    Returns:
        The value, a scalar in nats, >= 0, with gradient to `logits`; and the mass, a scalar without
        gradient. Both in float32, in float64 of such logits; 0 of nothing.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    own = logits.to(dtype).index_select(2, labels[0])  # [b n m]
    guide = teacher_logits.detach().to(dtype).index_select(2, labels[1])  # [b n m]
    has_label = part & (matched != LEFT_OUT)
    counts = has_label[:, :, None] & known[:, None, labels[0]]  # [b n m]
    is_object = matched[:, :, None] == labels[0]  # [b n m]
    divergence = focal_kl(own, guide, is_object, gamma=gamma)
    return (divergence * counts).sum(), (guide.sigmoid().pow(theta) * counts).sum()

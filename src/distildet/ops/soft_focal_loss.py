"""The focal loss of yes-or-no predictions for targets between no and yes."""

from torch import Tensor
from torch.nn import functional as F

ALPHA = 0.25  # as torchvision's sigmoid_focal_loss, after Lin et al., arXiv 1708.02002, section 5.1


def soft_focal_loss(logits: Tensor, scores: Tensor) -> Tensor:
    """Return how far predictions are from the probabilities that they shall have.

    Equal to torchvision's `sigmoid_focal_loss` (alpha 0.25, gamma 2) where a score is 0 or 1.

    Formula:
        L = w (s-p)^2 BCE, w = alpha s + (1-alpha)(1-s), BCE = -s log p - (1-s) log(1-p),
        p = sigmoid(logit). Its derivative by the logit, w (p-s) ((p-s)^2 + 2 p (1-p) BCE), has the
        sign of p - s, so that p = s is the only minimum; L is 0 there. Inside of BCE, alpha would
        move the minimum: alpha s log p + (1-alpha)(1-s) log(1-p) is largest at s / (s + 3 (1-s)).

    Args:
        logits: Of any shape, float32 or float64.
        scores: Of the same shape and type, 0..1.

    Returns:
        Of the same shape, in nats, >= 0; finite for all finite logits.

    Source:
        Li et al., "Generalized Focal Loss", arXiv 2006.04388, eq. 2 with beta 2 (Quality Focal
        Loss), which has no alpha; alpha is that of Lin et al., arXiv 1708.02002, eq. 5,
        interpolated between its two targets.

    Example:
        >>> import torch
        >>> soft_focal_loss(torch.zeros(3), torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.1300, 0.0000, 0.0433])
    """
    entropy = F.binary_cross_entropy_with_logits(logits, scores, reduction="none")
    weight = ALPHA * scores + (1 - ALPHA) * (1 - scores)
    return weight * (scores - logits.sigmoid()).square() * entropy

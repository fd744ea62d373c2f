"""What the loss `adaptive` sums up over the regions of two-stage detectors.

There are some hundred regions an image, not the many thousand priors of a dense head, so that a
plain composition of tensor operations is lean enough; see `distildet.ops.adaptive_sums` for those.
"""

import torch
from torch import Tensor

from distildet.ops.adaptive_sums import AdaptiveForm
from distildet.ops.divergence import softmax_entropy, softmax_kl


def adaptive_region_sum(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    form: AdaptiveForm,
    beta: float,
    gamma: float,
) -> Tensor:
    """Return the sum of divergences, weighted by how hard each is to learn.

    Formula:
        value = Σ A * KL in the form "paper", Σ A * (KL + T) / 2 in the form "official";
        A = (1 - exp(-(KL + beta T)))^gamma. KL is the divergence of the student's probabilities
        over all columns from the teacher's q, T the entropy of q divided by its most and multiplied
        by log 2. The gradient flows through A too.

    Args:
        logits: [n 1+k] of the student, background first, k at least 1, of any float type.
        teacher_logits: [n 1+k] of the teacher; gets no gradient.
        form: Of the loss; see above.
        beta: Share of the teacher's entropy in the weight, >= 0.
        gamma: Power of the weight, >= 0; 0 leaves it out.

    Returns:
        The value, a scalar in nats, >= 0, with gradient to `logits`, in float32, in float64 of such
        logits; 0 of nothing. In float32 it is within 1e-6 of that in float64, relatively, and the
        gradient within 2e-6 of its largest element, however near the two are.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366, on yes-or-no predictions; what T is of a softmax is ours. Of
        one class, A, KL and T are those of `adaptive_sums` of the difference of the two logits.

    Example:
        >>> certain = torch.tensor([[0.0, 100.0]])
        >>> adaptive_region_sum(torch.zeros(1, 2), certain, form="paper", beta=1.0, gamma=2.0)
        tensor(0.1733)
    """
    # Logarithms of probabilities near 0 and 1: at least float32.
    computed_in = torch.promote_types(logits.dtype, torch.float32)
    own, guide = logits.to(computed_in), teacher_logits.detach().to(computed_in)
    kl, entropy = softmax_kl(own, guide), softmax_entropy(guide)
    weight = -torch.expm1(-(kl + beta * entropy))
    # The power has an infinite slope at 0 where gamma is below 1; clamping leaves none.
    hardness = weight.clamp(min=torch.finfo(computed_in).tiny) ** gamma
    divergence = kl if form == "paper" else (kl + entropy) / 2
    return (hardness * divergence).sum()

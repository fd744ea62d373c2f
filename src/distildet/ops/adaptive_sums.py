"""What the loss `adaptive` sums over a level, in little memory and one pass.

A level of class logits has many million elements, of which a plain composition of tensor operations
holds a dozen copies at a time. Here value and gradient are computed together, block by block, in a
few buffers that stay in the cache; the gradient is the only result of the size of the logits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from distildet.ops.divergence import LARGE_LOGIT, small_gap

AdaptiveForm = Literal["paper", "official"]
Labels = tuple[Tensor, Tensor]
Block = tuple[slice, slice]

# Elements of a block. On a CPU its buffers shall stay in the cache; but each operation costs a
# call, and with several threads a meeting of all, which takes long where others use the cores.
_ELEMENTS_OF_A_THREAD, _ELEMENTS_OF_A_GPU, _LEAST_OF_A_GPU = 2**17, 2**20, 2**18
# The buffers, and at most four tensors more of their size, take a seventh of the memory of the
# logits if there are so many blocks; of few logits it is no concern.
_LEAST_BLOCKS, _FEW = 80, 2**20
_BUFFERS = 8


@dataclass(frozen=True, kw_only=True)
class _Options:
    """What `adaptive_sums` is given beside the predictions."""

    form: AdaptiveForm
    beta: float
    gamma: float
    theta: float
    labels: Labels | None


def adaptive_sums(
    logits: Tensor,
    teacher_logits: Tensor,
    takes_part: Tensor,
    *,
    form: AdaptiveForm,
    beta: float,
    gamma: float,
    theta: float,
    labels: Labels | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sum of divergences, weighted by how hard each is to learn, and the teacher's mass.

    Beside its inputs it holds the gradient, of the shape of the student's logits in float32, and
    buffers: on a CPU at most 1.15 times that of more than 2**20 logits, 0.15 times where no
    gradient is asked for. Of half precision the gradient's rounded copy makes it 1.5 times.

    In float32 the value is within 1e-6 of that in float64, relatively, and the gradient within 1e-6
    of its largest element if beta is 1, 3e-6 if it is 0 (gamma being 2): of unlike
    predictions as well as of ones whose logits are but 0.001 apart.

    Formula:
        value = Σ A * KL in the form "paper", Σ A * (KL + T) / 2 in the form "official";
        A = (1 - exp(-(KL + beta T)))^gamma; mass = Σ q^theta. KL is the divergence of the student's
        probability p from the teacher's q, T the entropy of q. The gradient flows through A too:
        by a logit it is (p - q) * (gamma (1 - e)^(gamma-1) e B + A * dB/dKL), where e is
        exp(-(KL + beta T)) and B is what A multiplies.

    Args:
        logits: [b n k] of the student, of any float type and strides.
        teacher_logits: [b n k_t]; gets no gradient.
        takes_part: [b n], bool; the others are in neither sum and get the gradient 0.
        form: Of the loss; see above.
        beta: Share of the teacher's entropy in the weight, >= 0.
        gamma: Power of the weight, >= 0; 0 leaves it out.
        theta: Power of the teacher's probabilities in the mass, >= 0.
        labels: Places [m] of the classes that are compared, in the student's and in the teacher's
            logits; None compares all in their order.

    Returns:
        The value, a scalar in nats, >= 0, with gradient to `logits`; and the mass, a scalar without
        gradient. Both in float32, in float64 of such logits; finite for all logits of at most 1e37,
        0 of nothing.

    Raises:
        RuntimeError: In the backward pass, if it shall have a gradient itself.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366.

    Example:
        >>> value, mass = adaptive_sums(
        ...     torch.zeros(1, 1, 1),
        ...     torch.full((1, 1, 1), 100.0),
        ...     torch.ones(1, 1, dtype=torch.bool),
        ...     form="paper",
        ...     beta=1.0,
        ...     gamma=2.0,
        ...     theta=1.8,
        ... )
        >>> value, mass
        (tensor(0.1733), tensor(1.))
    """
    options = _Options(form=form, beta=beta, gamma=gamma, theta=theta, labels=labels)
    if torch.is_grad_enabled() and logits.requires_grad:
        value, mass = _AdaptiveSums.apply(logits, teacher_logits, takes_part, options)
        return value, mass
    return _sums(logits, teacher_logits, takes_part, options, gradient=None)


class _AdaptiveSums(torch.autograd.Function):
    """Computes the gradient together with the value, since both need the same logarithms.

    What it shall be multiplied by is known in `backward` alone: the normaliser needs the mass of
    all levels and processes.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, teacher_logits: Tensor, takes_part: Tensor, options: _Options
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(logits, teacher_logits, takes_part)
        ctx.options = options
        ctx.gradient = _gradient_of(logits, options)
        value, mass = _sums(logits, teacher_logits, takes_part, options, gradient=ctx.gradient)
        ctx.mark_non_differentiable(mass)
        return value, mass

    @staticmethod
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The gradient of adaptive_sums has no gradient of its own. Found create_graph=True "
                "in the backward pass; leave it out."
            )
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # given away before: the graph was kept for a further backward pass
            logits, teacher_logits, takes_part = ctx.saved_tensors
            gradient = _gradient_of(logits, ctx.options)
            _sums(logits, teacher_logits, takes_part, ctx.options, gradient=gradient)
        # Half precision is left to the end: before its factor a gradient may be too small for it.
        return gradient.mul_(factor).to(ctx.saved_tensors[0].dtype), None, None, None


def _gradient_of(logits: Tensor, options: _Options) -> Tensor:
    """Return the tensor that the gradient is written to; 0 where no class is compared."""
    make = torch.empty if options.labels is None else torch.zeros
    return make(logits.shape, dtype=_computed_in(logits), device=logits.device)


def _computed_in(logits: Tensor) -> torch.dtype:
    # Logarithms of probabilities near 0 and 1, and sums over 1e6 of them: at least float32.
    return torch.promote_types(logits.dtype, torch.float32)


@torch.no_grad()
def _sums(
    logits: Tensor,
    teacher_logits: Tensor,
    takes_part: Tensor,
    options: _Options,
    *,
    gradient: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return value and mass; write the gradient of the value where it is asked for."""
    dtype = _computed_in(logits)
    images, priors = takes_part.shape
    classes = logits.shape[2] if options.labels is None else len(options.labels[0])
    blocks = list(_blocks(images, priors, classes, _block_elements(logits)))
    largest = max((takes_part[block].numel() for block in blocks), default=0) * classes
    scratch = logits.new_empty(_BUFFERS, largest, dtype=dtype)
    # One sum a block: adding up few sums of many elements keeps the digits of float32.
    sums = logits.new_zeros(2, len(blocks), dtype=dtype)
    for place, block in enumerate(blocks):
        own, guide = logits[block], teacher_logits[block]
        if options.labels is not None:
            own = own.index_select(2, options.labels[0])  # [b n m]
            guide = guide.index_select(2, options.labels[1])  # [b n m]
        sums[:, place] = _block_sums(
            own.to(dtype),
            guide.to(dtype),
            takes_part[block].to(dtype),
            scratch[:, : guide.numel()].view(_BUFFERS, *guide.shape),
            options,
            gradient=None if gradient is None else gradient[block],
        )
    value, mass = sums.sum(1)
    return value, mass


def _block_elements(logits: Tensor) -> int:
    share = logits.numel() // _LEAST_BLOCKS
    if logits.device.type != "cpu":
        return max(_LEAST_OF_A_GPU, min(_ELEMENTS_OF_A_GPU, share))
    most = _ELEMENTS_OF_A_THREAD * torch.get_num_threads()
    return most if logits.numel() <= _FEW else min(most, share)


def _blocks(images: int, priors: int, classes: int, elements: int) -> Iterator[Block]:
    """Give ranges of images and priors: many whole images, or a part of one."""
    rows = max(1, elements // max(1, classes))
    step = max(1, rows // max(1, priors))
    for image in range(0, images, step):
        for prior in range(0, priors, rows):
            yield slice(image, image + step), slice(prior, prior + rows)


def _block_sums(
    own: Tensor,
    guide: Tensor,
    part: Tensor,
    buffers: Tensor,
    options: _Options,
    *,
    gradient: Tensor | None,
) -> Tensor:
    """Return value and mass [2] of a block; write the gradient of the value where there is one.

    Args:
        own: [b n m], the student's logits.
        guide: [b n m], the teacher's.
        part: [b n], 1 or 0.
        buffers: [_BUFFERS b n m], overwritten.
        options: Of the loss.
        gradient: [b n k], of which the classes that are compared are written.
    """
    kl, entropy, difference, mass = _compare(own, guide, part, buffers, options.theta)
    divergence, slope = _weigh(kl, entropy, buffers[3], buffers[4], options)
    if gradient is not None and options.labels is None:
        torch.mul(difference, slope, out=gradient)
    elif gradient is not None and options.labels is not None:
        gradient.index_copy_(2, options.labels[0], difference.mul_(slope))
    return torch.stack([_total(divergence, part), mass])


def _total(values: Tensor, part: Tensor) -> Tensor:
    return (values.sum(2) * part).sum()


def _compare(
    own: Tensor, guide: Tensor, part: Tensor, buffers: Tensor, theta: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return KL, T and p - q in the first three buffers, and the mass; the others are free then.

    Neither KL nor T nor the size of p - q changes if both logits change their sign. They are
    mirrored, so that the teacher's is never positive: no probability near 1, whose distance from 1
    would be lost, takes part in anything but p - q.

    Where student and teacher nearly agree, p - q and KL would be lost as differences of
    probabilities and of logarithms. Both are computed from d, the student's logit less the
    teacher's: p - q is tanh(d/2) (p + q - 2 p q), and KL has a formula for large and one for
    small d.
    """
    kl, entropy, both, gap, doubt, first, second, mirror = buffers
    # 1 or -1, and 0 for what is left out.
    torch.copysign(part[:, :, None], torch.neg(guide, out=gap), out=mirror)
    u, v = torch.mul(guide, mirror, out=gap), torch.mul(own, mirror, out=kl)  # u <= 0
    q = torch.sigmoid(u, out=doubt)  # at most 1/2
    torch.neg(q, out=entropy).log1p_()  # log(1 - q)
    # q^theta, not mirrored: log q is log(1 - q) + the logit.
    torch.clamp(guide, max=0, out=first).add_(entropy).mul_(theta).exp_()
    mass = _total(first, part)
    entropy.addcmul_(u, q).neg_()
    torch.sub(v, u, out=gap)
    p = torch.sigmoid(v, out=first)
    torch.add(p, q, out=both)
    difference = torch.sub(both, p.mul_(q), alpha=2, out=first)
    # KL of large d: log(1 + (p - q) / (1 - p)) - q d, and log(1 / (1 - p)) is v where v is large.
    capped = torch.clamp(v, max=LARGE_LOGIT, out=second)
    kl.sub_(capped).addcmul_(q, gap, value=-1)
    # tanh(d/2) = x / (x + 2), x = exp(d) - 1, is faster than tanh itself.
    x = torch.clamp(gap, max=LARGE_LOGIT, out=doubt).expm1_()
    difference.mul_(x).div_(x.add_(2))
    kl.add_(torch.div(difference, second.neg_().sigmoid_(), out=doubt).log1p_())
    # KL of small d: (p - q) d (1/2 - z/12 + z (3 z^2 - 2 d^2) / 720), where z is (1 - p - q) d: the
    # formula of Euler and Maclaurin for the integral of the probability from u to v, less q d.
    gap.clamp_(-1, 1)  # finite powers of what the series is not for
    z = both.sub_(1).mul_(gap)  # its negative
    series = torch.mul(z, z, out=doubt).addcmul_(gap, gap, value=-2 / 3).sub_(20).mul_(z)
    series.mul_(-1 / 240).add_(0.5).mul_(difference).mul_(gap)
    # From the one formula to the other over half of the way: faster than a choice by elements.
    share = torch.abs(gap, out=second).mul_(2 / small_gap(gap.dtype)).sub_(1).clamp_(0, 1)
    # Rounding can leave -1e-45.
    torch.lerp(series, kl, share, out=kl).clamp_(min=0)
    return kl, entropy, torch.mul(difference, mirror, out=both), mass


def _weigh(
    kl: Tensor, entropy: Tensor, first: Tensor, second: Tensor, options: _Options
) -> tuple[Tensor, Tensor]:
    """Return the weighted divergence, and its derivative by the logit as a multiple of p - q.

    Args:
        kl: Overwritten, as all tensors.
        entropy: Of the teacher.
        first: A free buffer.
        second: Another one.
        options: Of the loss.
    """
    gamma, own_share = options.gamma, 1.0 if options.form == "paper" else 0.5
    # From the root of e: 1 - e would lose what is small, and e = 1 - (1 - e) would too.
    weight = torch.add(kl, entropy, alpha=options.beta, out=first).mul_(-0.5).expm1_()
    root = torch.add(weight, 1, out=second)
    weight.addcmul_(weight, root).neg_()  # 1 - e = (1 - root) (1 + root)
    if options.form == "official":
        kl.add_(entropy).mul_(0.5)
    if gamma == 0:
        return kl, root.fill_(own_share)
    slope = root.mul_(root).mul_(kl).mul_(gamma).add_(weight, alpha=own_share)
    weighted = kl.mul_(weight)
    if gamma == 1:
        return weighted, slope
    if gamma == 2:
        power = weight
    else:
        # weight^(gamma-1), and 0 instead of the infinite slope that a power below 1 has at 0.
        power = torch.pow(weight, gamma, out=entropy)
        power.div_(weight.clamp_(min=torch.finfo(weight.dtype).tiny))
    return weighted.mul_(power), slope.mul_(power)

"""How far a map is from another in each cell, in size and in direction, in one pass each way."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_NORM = 1e-8
"""What the norms of a cell count at least: a cell of zeros has no direction, and g = 1."""


def guided_difference(
    own: Tensor, guide: Tensor, num_channels: Tensor, *, direction: float
) -> Tensor:
    """Return d + direction * g of each cell.

    d = 1/c Σ_c huber(v - t), g = 1 - cos(v, t); huber(x) is x²/2 up to 1, and |x| - 1/2 beyond.

    A composition of tensor operations would keep some ten maps for the backward pass; this keeps the
    two that it is given and three numbers a cell.

    Args:
        own: v, [b c h w] float32, gets a gradient.
        guide: t, [b c h w] float32, gets none; channels that are left out are 0 in both.
        num_channels: c, scalar, those that are not left out.
        direction: Factor of g, 0 or more.

    Returns:
        [b h w] float32, >= 0; 0 where both are equal.

    Example:
        >>> own, guide = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
        >>> guided_difference(  # (2.5 + 3.5) / 2 + 0.5 * 1
        ...     own.view(1, 2, 1, 1), guide.view(1, 2, 1, 1), torch.tensor(2), direction=0.5
        ... )
        tensor([[[3.5000]]])
    """
    return cast("Tensor", _GuidedDifference.apply(own, guide, num_channels, direction))  # type: ignore[no-untyped-call] # torch has no type


class _GuidedDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, guide: Tensor, num_channels: Tensor, direction: float
    ) -> Tensor:
        size = (own - guide).abs_()
        # min(x, 1) (x - min(x, 1) / 2) is both branches of Huber's function.
        short = size.clamp(max=1)
        difference = short.mul_(size.sub_(short, alpha=0.5)).sum(1) / num_channels  # [b h w]
        cosine = own_norm = guide_norm = difference.new_zeros(())
        if direction > 0:
            own_norm, guide_norm = (
                one.square().sum(1).sqrt_().clamp_(min=LEAST_NORM) for one in (own, guide)
            )
            cosine = (own * guide).sum(1) / (own_norm * guide_norm)
            # Rounding takes a cosine just above 1.
            difference = difference + direction * (1 - cosine).clamp_(min=0)
        ctx.save_for_backward(own, guide, num_channels, cosine, own_norm, guide_norm)
        ctx.direction = direction
        return difference

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator] # torch has no type
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        own, guide, num_channels, cosine, own_norm, guide_norm = ctx.saved_tensors
        found = (own - guide).clamp_(-1, 1).mul_((grad / num_channels)[:, None])  # [b c h w]
        if ctx.direction > 0:
            # d cos / d v = t / (|v| |t|) - cos v / |v|²
            scale = ctx.direction * grad
            found.addcmul_(guide, (-scale / (own_norm * guide_norm))[:, None])
            found.addcmul_(own, (scale * cosine / own_norm.square())[:, None])
        return found, None, None, None

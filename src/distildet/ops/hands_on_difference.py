"""How far a map is from another in each cell, in size and in direction, in little memory."""

from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LEAST_SIZE = 0.01
"""Root mean square of the standardised channels of a cell below which it has no direction."""


def hands_on_difference(
    own: Tensor, guide: Tensor, num_channels: Tensor, *, direction: float
) -> Tensor:
    """Return [b h w], what a student's cell lacks in size and in direction: d + direction * g.

    d = 1/c Σ_c huber(v - t), g = 1 - cos(v, t); huber(x) is x²/2 up to 1, and |x| - 1/2 beyond. In
    units of the teacher's deviation no channel and no level counts more for being larger, and
    no cell much more for being an outlier. For the cosine v and t have a further channel of 0.01
    times the root of c: a cell that is near 0 has hardly a direction, and its gradient is finite.

    For the backward pass both maps and three numbers a cell are kept, where a composition of tensor
    operations would keep some ten maps.

    Args:
        own: v, [b c h w] float32, the student's map, projected and standardised; gets a gradient.
        guide: t, [b c h w] float32, the teacher's, standardised; gets none. Channels that are left
            out are 0 in both.
        num_channels: c, scalar, those that are not left out.
        direction: Factor of g, 0 or more.

    Example:
        >>> own, guide = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
        >>> hands_on_difference(  # (2.5 + 3.5) / 2 + 0.5 * 1
        ...     own.view(1, 2, 1, 1), guide.view(1, 2, 1, 1), torch.tensor(2), direction=0.5
        ... ).round(decimals=3)
        tensor([[[3.5000]]])
    """
    return cast("Tensor", _HandsOnDifference.apply(own, guide, num_channels, direction))


class _HandsOnDifference(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, own: Tensor, guide: Tensor, num_channels: Tensor, direction: float
    ) -> Tensor:
        size = (own - guide).abs_()
        # min(x, 1) (x - min(x, 1) / 2) is both branches of Huber's function.
        short = size.clamp(max=1)
        difference = size.sub_(short, alpha=0.5).mul_(short).sum(1) / num_channels  # [b h w]
        ctx.direction = direction
        if direction == 0:
            ctx.save_for_backward(own, guide, num_channels)
            return difference
        further = LEAST_SIZE**2 * num_channels
        own_norm, guide_norm = (
            torch.mul(one, one, out=size).sum(1).add_(further).sqrt_() for one in (own, guide)
        )
        cosine = torch.mul(own, guide, out=size).sum(1).add_(further) / own_norm / guide_norm
        ctx.save_for_backward(own, guide, num_channels, cosine, own_norm, guide_norm)
        # Rounding takes a cosine just above 1.
        return difference.add_((1 - cosine).clamp_(min=0), alpha=direction)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        own, guide, num_channels, *of_direction = ctx.saved_tensors
        found = (own - guide).clamp_(-1, 1).mul_((grad / num_channels)[:, None])  # [b c h w]
        if of_direction:
            cosine, own_norm, guide_norm = of_direction
            # d cos / d v = t / (|v| |t|) - cos v / |v|²
            scale = ctx.direction * grad / own_norm
            found.addcmul_(guide, (-scale / guide_norm)[:, None])
            found.addcmul_(own, (scale * cosine / own_norm)[:, None])
        return found, None, None, None

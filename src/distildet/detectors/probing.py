"""Probes a network with one small image: is it a pyramid, and which of its parts are needed."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distildet.errors import ConfigError

# Neither square nor of a size that networks are made for, as batches are; of whole cells at 32.
PROBE_SIZE = (96, 160)


def not_a_pyramid(name: str, reason: str) -> ConfigError:
    """Return the error for a backbone that gives no feature pyramid."""
    return ConfigError(
        f"Backbone {name!r} is not a pyramid of feature maps: {reason}. Use a network with maps "
        "of strides 4, 8, 16, 32 in [b c h w], such as resnet18 or mobilenetv2_050."
    )


@torch.no_grad()
def check_maps(
    name: str, body: nn.Module, *, strides: Sequence[int], channels: Sequence[int]
) -> None:
    """Refuse networks that are made for one size of images, or whose cells are no whole strides.

    Args:
        name: Of the network, for the message.
        body: Returns a list of maps; it is in eval mode.
        strides: What the maps should have, in pixels a cell.
        channels: What the maps should have.

    Raises:
        ConfigError: The network fails on the probe, or a map has another shape.
    """
    height, width = PROBE_SIZE
    try:
        maps = body(_probe())
    except Exception as error:
        # Networks check their input in many ways; some say nothing.
        said = str(error) or type(error).__name__
        raise not_a_pyramid(name, f"it fails on images of {height}x{width} ({said})") from error
    for found, stride, count in zip(maps, strides, channels, strict=True):
        expected = [1, count, height // stride, width // stride]
        if list(found.shape) != expected:
            raise not_a_pyramid(
                name,
                f"of images of {height}x{width}, its map of stride {stride} has the shape "
                f"{list(found.shape)} instead of {expected}",
            )


def without_unused(body: nn.Module) -> nn.Module:
    """Take out what no map depends on, such as the stages after the last map.

    These would cost time in every step, and their weights would never get a gradient. Where the
    network does not run without them, their weights are frozen.

    Args:
        body: Returns a list of maps; it is in eval mode.

    Returns:
        A copy that gives the same maps, or `body` itself.
    """
    maps = body(_probe())
    names, parameters = zip(*body.named_parameters(), strict=True)
    total = torch.stack([level.sum() for level in maps]).sum()
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    unused = {name for name, gradient in zip(names, gradients, strict=True) if gradient is None}
    reduced = copy.deepcopy(body)
    _take_out(reduced, unused)
    if unused and _gives(reduced, maps):
        return reduced
    for name in unused:
        body.get_parameter(name).requires_grad = False
    return body


def _probe() -> Tensor:
    return torch.linspace(-1, 1, 3 * PROBE_SIZE[0] * PROBE_SIZE[1]).reshape(1, 3, *PROBE_SIZE)


def _take_out(module: nn.Module, unused: set[str], prefix: str = "") -> None:
    for name, child in module.named_children():
        own = {f"{prefix}{name}.{parameter}" for parameter, _ in child.named_parameters()}
        if own and own <= unused:
            setattr(module, name, nn.Identity())
        else:
            _take_out(child, unused, f"{prefix}{name}.")


@torch.no_grad()
def _gives(body: nn.Module, maps: Sequence[Tensor]) -> bool:
    try:
        return all(map(torch.equal, body(_probe()), maps))
    except Exception:
        # A network fails in ways of its own where it misses a part.
        return False

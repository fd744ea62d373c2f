"""Where the weights of a network lie."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def placed_on(network: Network, device: torch.device) -> Network:
    """Move a network to a device, its weights in the layout in which convolutions are fastest.

    Args:
        network: Changed in place.
        device: Where it shall compute.

    Returns:
        The network.
    """
    return network.to(device).to(memory_format=torch.channels_last)

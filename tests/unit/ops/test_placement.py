import torch
from torch import nn

from distildet.ops.placement import placed_on


def test_weights_lie_in_the_layout_of_convolutions_with_equal_values():
    network = nn.Conv2d(3, 4, 2)
    before = network.weight.detach().clone()

    placed = placed_on(network, torch.device("cpu"))

    assert placed is network
    assert network.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.weight.equal(before)

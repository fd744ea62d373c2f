import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from distildet.detectors.pyramid import PyramidNeck

LEVELS, CHANNELS, WIDTH = ("C3", "C4", "C5"), (6, 10, 12), 8


@pytest.fixture
def features():
    generator = torch.Generator().manual_seed(0)
    sides = {"C3": 20, "C4": 10, "C5": 5}
    return {
        level: torch.randn(2, channels, side, side + 4, generator=generator)
        for (level, side), channels in zip(sides.items(), CHANNELS, strict=True)
    }


@pytest.mark.parametrize(("source", "in_channels"), [("backbone", 12), ("neck", 8)])
def test_maps_equal_those_of_torchvision(features, source, in_channels):
    torch.manual_seed(0)
    ours = PyramidNeck(LEVELS, CHANNELS, WIDTH, 2, source)
    stock = FeaturePyramidNetwork(
        list(CHANNELS), WIDTH, extra_blocks=LastLevelP6P7(in_channels, WIDTH)
    )
    stock.load_state_dict(ours.fpn.state_dict())

    found, expected = ours(features), list(stock(features).values())

    assert list(found) == ["P3", "P4", "P5", "P6", "P7"]
    assert all(map(torch.equal, found.values(), expected))


def test_the_source_of_extra_levels_is_what_was_said_when_the_widths_coincide(features):
    torch.manual_seed(0)
    neck = PyramidNeck(LEVELS, CHANNELS, 12, 1, "backbone")
    convolution = neck.fpn.extra_blocks.p6

    expected = F.conv2d(features["C5"], convolution.weight, convolution.bias, 2, 1)

    assert neck(features)["P6"].equal(expected)


def test_subsampled_levels_equal_those_of_torchvision(features):
    torch.manual_seed(0)
    ours = PyramidNeck(LEVELS, CHANNELS, WIDTH, 1, "subsampling", norm="batch")
    stock = FeaturePyramidNetwork(
        list(CHANNELS), WIDTH, extra_blocks=LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
    )
    stock.load_state_dict(ours.fpn.state_dict())

    found, expected = ours(features), list(stock(features).values())

    assert list(found) == ["P3", "P4", "P5", "P6"]
    assert all(map(torch.equal, found.values(), expected))


@pytest.mark.parametrize(
    ("levels", "extra", "names", "strides"),
    [
        (("C3", "C4", "C5"), 2, ("P3", "P4", "P5", "P6", "P7"), (8, 16, 32, 64, 128)),
        (("C3", "C4"), 0, ("P3", "P4"), (8, 16)),
        (("C2", "C3"), 1, ("P2", "P3", "P4"), (4, 8, 16)),
        (("C4",), 3, ("P4", "P5", "P6", "P7"), (16, 32, 64, 128)),
    ],
)
def test_levels_are_named_by_their_stride(levels, extra, names, strides):
    neck = PyramidNeck(levels, CHANNELS[: len(levels)], WIDTH, extra, "neck")

    assert (neck.levels, neck.strides) == (names, strides)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_coarsest_levels_learn_in_half_precision(width):
    torch.manual_seed(0)
    neck = PyramidNeck(("C5",), (16,), 16, 2, "neck")
    maps = {"C5": torch.randn(4, 16, 2, width)}
    neck(maps)["P7"].square().sum().backward()
    expected = [p.grad.clone() for p in neck.parameters()]

    for _ in range(5):
        # Memory that is free again, full of large numbers.
        torch.full((16 * 16 * 9,), 1e20).add_(1)
        neck.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            coarsest = neck(maps)["P7"]
        coarsest.float().square().sum().backward()
        found = [p.grad for p in neck.parameters()]
        torch.testing.assert_close(found, expected, rtol=0.1, atol=1.0)

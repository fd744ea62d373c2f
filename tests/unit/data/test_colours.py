"""Colours vary as torchvision's kernels say, but pale images are not burnt."""

import pytest
import torch
from torchvision.transforms.v2 import functional

from distildet.data.colours import recolour


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_kernels_work_in_order_whatever_the_memory_layout(memory):
    values = torch.randint(0, 128, (1, 3, 20, 30), generator=torch.Generator().manual_seed(0))
    pixels = values.byte().contiguous(memory_format=memory)[0]

    expected = functional.adjust_brightness(pixels, 1.2)
    expected = functional.adjust_contrast(expected, 0.8)
    expected = functional.adjust_saturation(expected, 1.3)
    assert torch.equal(recolour(pixels, 1.2, 0.8, 1.3), expected)


@pytest.mark.parametrize(
    ("grey", "brightness", "expected"),
    [
        (100, 1.5, 150),
        (160, 1.5, 204),  # at most 0.8 * 255
        (230, 1.5, 230),  # bright enough already
        (230, 0.5, 115),
        (0, 1.5, 0),
    ],
)
def test_an_image_is_not_brightened_beyond_a_mean(grey, brightness, expected):
    pixels = torch.full((3, 4, 4), grey, dtype=torch.uint8)

    assert recolour(pixels, brightness, 1.0, 1.0).unique().tolist() == [expected]


def test_the_input_is_left_alone():
    pixels = torch.full((3, 4, 4), 100, dtype=torch.uint8)

    recolour(pixels, 1.5, 0.9, 1.1)

    assert pixels.unique().tolist() == [100]

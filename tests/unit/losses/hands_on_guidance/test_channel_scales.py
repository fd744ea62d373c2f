"""Oracles: values by hand."""

import pytest
import torch

from distildet.losses.hands_on_guidance.channel_scales import ChannelScales


def filled(mean, variance):
    scales = ChannelScales(len(mean))
    scales.fill(torch.tensor(mean), torch.tensor(variance))
    return scales


def standardised(scales, *values):
    return scales.standardised(torch.tensor(values)[None, :, None, None])[0, :, 0, 0].tolist()


def test_before_it_is_filled_maps_stay_as_they_are():
    scales = ChannelScales(2)

    assert standardised(scales, 3.0, -5.0) == [3, -5]
    assert scales.num_channels == 2


def test_channels_are_taken_less_their_mean_in_units_of_their_deviation():
    scales = filled([1.0, -2.0], [4.0, 0.25])

    assert standardised(scales, 3.0, 1.0) == [1, 6]
    assert scales.num_channels == 2


def test_channels_that_hardly_vary_are_left_out():
    # Deviations 2, 0.0099 and 0: a hundredth of the root mean square is 0.01155.
    scales = filled([1.0, 1.0, 1.0], [4.0, 0.0099**2, 0.0])

    assert standardised(scales, 3.0, 9.0, 9.0) == [1, 0, 0]
    assert scales.num_channels == 1


def test_channels_that_vary_just_enough_are_kept():
    scales = filled([1.0, 1.0, 1.0], [4.0, 0.012**2, 0.0])

    assert scales.num_channels == 2


@pytest.mark.parametrize(
    ("mean", "variance"),
    [
        (0.5, 0.0),
        # What is left of a mean that is rounded, as of seven times 0.1 in float32.
        (0.1, 5.6e-17),
    ],
)
def test_where_no_channel_varies_all_stay_in_their_own_unit(mean, variance):
    scales = filled([mean] * 3, [variance] * 3)

    assert standardised(scales, *[mean + 2] * 3) == pytest.approx([2] * 3)
    assert scales.num_channels == 3


def test_a_channel_that_varies_by_rounding_alone_is_left_out_though_all_vary_little():
    # The first by a part in 10 000 000 of its mean, the second by as much as that of a mean of 0.
    scales = filled([10.0, 0.0], [1e-12, 1e-12])

    assert scales.num_channels == 1
    assert scales.deviation.tolist() == pytest.approx([0, 1e-6])


def test_half_precision_is_standardised_in_float32():
    feature = torch.tensor([300.0, 1.0]).bfloat16()[None, :, None, None]

    found = filled([0.0, 0.0], [1e-6, 1.0]).standardised(feature)

    assert found.dtype == torch.float32


def test_a_channel_that_is_left_out_gets_no_gradient():
    feature = torch.ones(1, 2, 1, 1, requires_grad=True)

    filled([0.0, 0.0], [4.0, 0.0]).standardised(feature).sum().backward()

    assert feature.grad.flatten().tolist() == [0.5, 0]

"""Oracles: values by hand."""

import pytest
import torch

from distildet.losses.hands_on_guidance.measure import (
    on_coarser_grid,
    released,
    squared_difference,
)
from distildet.ops.hands_on_difference import LEAST_SIZE, hands_on_difference


def cell(*channels):
    return torch.tensor(channels)[None, :, None, None]


def difference(own, guide, *, direction, num_channels=None):
    count = torch.tensor(own.shape[1] if num_channels is None else num_channels)
    return hands_on_difference(own, guide, count, direction=direction)


@pytest.mark.parametrize(
    ("own", "guide", "expected"),
    [
        # Differences 0.5, -1, 3 and 0: 0.125 + 0.5 + 2.5.
        ((1.5, 0.0, 1.0, 2.0), (1.0, 1.0, -2.0, 2.0), 3.125 / 4),
        ((100.0,), (0.0,), 99.5),
        ((1.0, 2.0), (1.0, 2.0), 0.0),
    ],
)
def test_magnitude_by_hand(own, guide, expected):
    assert difference(cell(*own), cell(*guide), direction=0.0).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("own", "guide", "angle"),
    [
        ((2.0, 0.0), (5.0, 0.0), 0.0),
        ((2.0, 0.0), (0.0, 3.0), 1.0),
        ((2.0, 0.0), (-1.0, 0.0), 2.0),
        # Cosine 3 / 5.
        ((1.0, 0.0), (3.0, 4.0), 0.4),
    ],
)
def test_direction_by_hand(own, guide, angle):
    pair = cell(*own), cell(*guide)

    magnitude = difference(*pair, direction=0.0)
    with_direction = difference(*pair, direction=0.5)

    # The further channel moves a cosine by less than a thousandth.
    assert (with_direction - magnitude).item() == pytest.approx(0.5 * angle, abs=5e-4)


def test_the_further_channel_by_hand():
    # 0.01 √2 beside (0.03, 0) and (0, 0.04): a cosine of 0.0002 / √(0.0011 * 0.0018).
    found = difference(cell(0.03, 0.0), cell(0.0, 0.04), direction=1.0)

    angle = 1 - 0.0002 / (0.0011 * 0.0018) ** 0.5
    assert found.item() == pytest.approx((0.03**2 + 0.04**2) / 4 + angle, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e-3, 1.0, 1e4])
def test_equal_cells_do_not_differ_not_even_without_a_direction(value):
    same = cell(value, -value, value)

    assert difference(same, same, direction=1.0).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("guide", [(0.0, 0.0, 0.0, 0.0), (1e-9, 0.0, 0.0, 0.0), (1.0, -2.0, 0, 3)])
def test_the_gradient_of_a_student_at_0_is_bounded(guide):
    own = cell(0.0, 0.0, 0.0, 0.0).requires_grad_()

    difference(own, cell(*guide), direction=1.0).backward()

    # Of the direction at most 1 / (0.01 √4), of the magnitude at most 1/4 in each channel.
    assert own.grad.norm() <= 1 / (LEAST_SIZE * 2) + 0.5


def test_channels_that_are_left_out_do_not_count():
    kept = cell(1.5, 0.0), cell(1.0, 1.0)
    with_others = cell(1.5, 0.0, 0.0, 0.0), cell(1.0, 1.0, 0.0, 0.0)

    found = difference(*with_others, direction=0.5, num_channels=2)

    torch.testing.assert_close(found, difference(*kept, direction=0.5))


def test_each_cell_has_its_own_difference():
    own, guide = torch.zeros(2, 3, 2, 4), torch.zeros(2, 3, 2, 4)
    own[1, :, 0, 2] = 3.0

    found = difference(own, guide, direction=0.0)

    expected = torch.zeros(2, 2, 4)
    expected[1, 0, 2] = 2.5
    assert found.equal(expected)


def test_squared_by_hand():
    # Standardised differences 1 and 2, deviations 3 and 0.5: (9 + 1) / (9 + 0.25).
    deviation = torch.tensor([3.0, 0.5, 0.0])

    found = squared_difference(cell(1.0, 2.0, 0.0), cell(0.0, 0.0, 0.0), deviation)

    assert found.shape == (1, 1, 1)
    assert found.item() == pytest.approx(10 / 9.25)


def test_the_finer_map_is_averaged_and_the_coarser_stays():
    fine = torch.arange(32.0).view(1, 1, 4, 8)
    coarse = torch.zeros(1, 2, 2, 4)
    # Cells 0, 1, 8 and 9 of the fine map, and so on by 2 and by 16.
    expected = torch.tensor([[4.5, 6.5, 8.5, 10.5], [20.5, 22.5, 24.5, 26.5]])[None, None]

    own, guide = on_coarser_grid(fine, coarse)
    assert own.equal(expected)
    assert guide is coarse

    own, guide = on_coarser_grid(coarse, fine)
    assert own is coarse
    assert guide.equal(expected)


def test_maps_of_one_size_stay():
    pair = torch.zeros(1, 2, 3, 5), torch.zeros(1, 4, 3, 5)

    assert all(one is other for one, other in zip(on_coarser_grid(*pair), pair, strict=True))


SHUFFLED = torch.tensor([7.0, 2, 9, 0, 4, 1, 8, 3, 5, 6]).view(2, 1, 5)


@pytest.mark.parametrize(
    ("share", "expected"),
    # Of 0 to 9: the place is the share of 9, rounded down.
    [(0.0, 0), (0.1, 0), (0.12, 1), (0.25, 2), (0.5, 4), (0.99, 8)],
)
def test_what_is_released_is_a_quantile_of_all_cells(share, expected):
    found = released(SHUFFLED, torch.ones(2, 1, 5), share)

    assert found.shape == ()
    assert found == expected


def test_cells_that_do_not_count_have_no_part_in_the_quantile():
    # 0, 1, 2 and 3 do not count: of 4 to 9 the place is 0.5 * 5, rounded down.
    assert released(SHUFFLED, (SHUFFLED > 3).float(), 0.5) == 6


def test_the_quantile_has_no_gradient():
    difference = SHUFFLED.clone().requires_grad_()

    assert not released(difference, torch.ones(2, 1, 5), 0.5).requires_grad

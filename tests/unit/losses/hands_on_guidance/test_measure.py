"""Oracles: values by hand."""

import pytest
import torch

from distildet.losses.hands_on_guidance.measure import (
    on_coarser_grid,
    released,
    squared_difference,
)


def cell(*channels):
    return torch.tensor(channels)[None, :, None, None]


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
    # In order 0 2 4 7 9 and 1 3 5 6 8: the place is the share of 4, rounded down; means of both.
    [(0.0, 0.5), (0.24, 0.5), (0.25, 2.5), (0.5, 4.5), (0.99, 6.5)],
)
def test_what_is_released_is_the_mean_quantile_of_images(share, expected):
    found = released(SHUFFLED, torch.ones(2, 1, 5), share)

    assert found.shape == ()
    assert found == expected


def test_cells_that_do_not_count_have_no_part_in_the_quantile():
    # 4 7 9 and 5 6 8 are left: the second of each.
    assert released(SHUFFLED, (SHUFFLED > 3).float(), 0.5) == 6.5


def test_the_quantile_has_no_gradient():
    difference = SHUFFLED.clone().requires_grad_()

    assert not released(difference, torch.ones(2, 1, 5), 0.5).requires_grad

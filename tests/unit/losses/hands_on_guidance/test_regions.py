"""Oracles: maps by hand."""

import pytest
import torch

from distildet.losses.hands_on_guidance.regions import Regions

# Of shorter sides of 80, sides below 11.2 are on the finest level, below 22.4 on the next.
SMALL, LARGE = (0, 0, 8, 8), (20, 20, 40, 40)
FEATURE = torch.zeros(2, 3, 10, 10)  # cells of 8 x 8


@pytest.fixture
def regions(batch_of, target_of):
    """Two images, of which the second has 4 columns of padding and no box."""
    batch = batch_of(((80, 80), (80, 48)), (80, 80))
    return Regions(batch, [target_of(SMALL, LARGE), target_of()], 0.5)


@pytest.mark.parametrize(
    ("place", "boxes"),
    # The small box has a cell, the large one rows and columns 2 to 4.
    [(None, 1 + 9), (0, 1), (1, 9), (2, 0)],
)
def test_a_level_sees_the_boxes_of_its_place_and_without_one_all(regions, place, boxes):
    shown, region, inside = regions.cells(FEATURE, place, 3)

    assert inside.sum((1, 2, 3)).tolist() == [boxes, 0]
    assert shown.sum((1, 2, 3)).tolist() == [100, 60]
    sums = region.sum((1, 2, 3)).tolist()
    assert sums == pytest.approx([1.5 if boxes else 1, 1])


def test_boxes_larger_than_for_the_last_level_are_on_it(regions):
    assert regions.cells(FEATURE, 1, 2)[2].sum() == 9
    assert regions.cells(FEATURE, 0, 1)[2].sum() == 10


def test_each_size_of_map_has_its_own_cells(regions):
    coarse = torch.zeros(2, 3, 5, 5)

    # Cells of 16 x 16: one, and rows and columns 1 and 2.
    assert regions.cells(coarse, None, 1)[2].sum() == 1 + 4
    assert regions.cells(FEATURE, None, 1)[2].sum() == 1 + 9


def test_levels_of_like_size_and_place_share_what_is_computed(regions):
    first = regions.cells(FEATURE, 1, 3)

    assert regions.cells(torch.ones(2, 7, 10, 10), 1, 3) is first

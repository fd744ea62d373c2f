"""Oracles: maps by hand."""

import pytest
import torch

from distildet.losses.hands_on_guidance.regions import Regions
from distildet.losses.object_sizes import LevelSizes

SMALL, LARGE = (0, 0, 8, 8), (20, 20, 40, 40)
SIZES = LevelSizes("root of area", (10.0, 20.0, 40.0))
FEATURE = torch.zeros(2, 3, 10, 10)  # cells of 8 x 8


@pytest.fixture
def regions(batch_of, target_of):
    """Two images, of which the second has 4 columns of padding and no box."""
    batch = batch_of(((80, 80), (80, 48)), (80, 80))
    return Regions(batch, [target_of(SMALL, LARGE), target_of()], 0.5)


@pytest.mark.parametrize(
    ("place", "sizes", "boxes"),
    # The small box has a cell, the large one rows and columns 2 to 4.
    [(0, None, 1 + 9), (1, None, 1 + 9), (0, SIZES, 1), (1, SIZES, 9), (2, SIZES, 0)],
)
def test_a_level_sees_the_boxes_that_it_looks_for_and_without_sizes_all(
    regions, place, sizes, boxes
):
    shown, region, inside = regions.cells(FEATURE, place, sizes)

    assert inside.sum((1, 2, 3)).tolist() == [boxes, 0]
    assert shown.sum((1, 2, 3)).tolist() == [100, 60]
    sums = region.sum((1, 2, 3)).tolist()
    assert sums == pytest.approx([1.5 if boxes else 1, 1])


def test_each_size_of_map_has_its_own_cells(regions):
    coarse = torch.zeros(2, 3, 5, 5)

    # Cells of 16 x 16: one, and rows and columns 1 and 2.
    assert regions.cells(coarse, 0, None)[2].sum() == 1 + 4
    assert regions.cells(FEATURE, 0, None)[2].sum() == 1 + 9


def test_each_set_of_sizes_has_its_own_cells(regions):
    assert regions.cells(FEATURE, 0, SIZES)[2].sum() == 1
    assert regions.cells(FEATURE, 0, LevelSizes("root of area", (20.0, 40.0)))[2].sum() == 1 + 9


def test_levels_of_like_size_and_place_share_what_is_computed(regions):
    first = regions.cells(FEATURE, 1, SIZES)

    assert regions.cells(torch.ones(2, 7, 10, 10), 1, SIZES) is first

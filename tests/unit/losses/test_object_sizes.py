"""Oracles: sizes by hand."""

import math

import torch

from distildet.losses.object_sizes import LevelSizes, nearest_places, places_by_size, relative_sides


def squares(*sides):
    return torch.tensor([[1.0, 2.0, 1 + side, 2 + side] for side in sides]).reshape(-1, 4)


def test_sides_are_shares_of_the_shorter_side_of_their_own_image(batch_of):
    batch = batch_of(((40, 80), (100, 50), (20, 20)), (100, 80))
    boxes = [
        torch.tensor([[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 25.0, 6.0]]),
        torch.tensor([[0.0, 0.0, 10.0, 20.0]]),
        torch.zeros(0, 4),
    ]

    expected = torch.tensor([[0.25, 0.5], [0.5, 0.025], [0.2, 0.4]])
    torch.testing.assert_close(relative_sides(batch, boxes), expected)


def test_each_doubling_of_a_box_takes_it_a_level_further(batch_of):
    # Of 800 pixels: below 112 the finest, then up to 224, 448 and 896.
    batch = batch_of(((800, 1000),), (800, 1000))
    boxes = [squares(1, 55, 111, 113, 223, 225, 447, 449, 790)]

    assert places_by_size(batch, boxes, 5).tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert places_by_size(batch, boxes, 2).tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert places_by_size(batch, boxes, 1).tolist() == [0] * 9


def test_a_box_that_is_long_has_the_place_of_a_square_of_its_area(batch_of):
    batch = batch_of(((800, 1000),), (800, 1000))
    boxes = [torch.tensor([[0.0, 0.0, 20.0, 500.0], [0.0, 0.0, 500.0, 30.0]])]

    # Roots of 10000 and 15000: 100 and 122.
    assert places_by_size(batch, boxes, 3).tolist() == [0, 1]


def test_a_box_without_area_is_on_the_finest_level(batch_of):
    batch = batch_of(((80, 80),), (80, 80))

    assert places_by_size(batch, [squares(0.0)], 3).tolist() == [0]


def test_images_without_boxes_have_no_places(batch_of):
    batch = batch_of(((80, 80), (80, 80)), (80, 80))

    assert places_by_size(batch, [squares(), squares()], 3).shape == (0,)


def by_area(*sides):
    return LevelSizes("root of area", sides)


def test_a_box_is_on_the_level_whose_side_differs_by_the_least_factor():
    # Between 8, 16 and 64 lie 11.3 and 32.
    boxes = squares(1, 11, 12, 31, 33, 1000)

    assert nearest_places(boxes, by_area(8.0, 16.0, 64.0)).tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest_places(boxes, by_area(8.0)).tolist() == [0] * 6


def test_a_long_box_has_the_size_that_the_detector_goes_by():
    boxes = torch.tensor([[0.0, 0.0, 4.0, 25.0]])  # the root of its area is 10

    assert nearest_places(boxes, by_area(8.0, 16.0)).tolist() == [0]
    assert nearest_places(boxes, LevelSizes("longer side", (8.0, 16.0))).tolist() == [1]


def test_a_level_that_looks_for_nothing_has_no_box():
    boxes = squares(0.0, 1, 20, 1e6)

    assert nearest_places(boxes, by_area(8.0, 16.0, math.inf)).tolist() == [0, 0, 1, 1]
    assert nearest_places(boxes, by_area(math.inf, 16.0)).tolist() == [1] * 4


def test_boxes_without_area_and_no_boxes_have_places_too():
    assert nearest_places(squares(0.0), by_area(8.0, 16.0)).tolist() == [0]
    assert nearest_places(squares(), by_area(8.0, 16.0)).shape == (0,)

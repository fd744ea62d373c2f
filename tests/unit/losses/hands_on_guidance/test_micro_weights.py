"""Oracles: weights by hand on a few cells, and formulas cell by cell in float64."""

import math

import pytest
import torch

from distildet.losses.hands_on_guidance.micro_weights import (
    MOST_HARDNESS,
    cell_weights,
    evenness,
    region_weights,
    uniform_weights,
)

CANVAS, SHAPE = (16, 32), (2, 4)  # cells of 8 x 8


def regions(*targets, shown=None, background=0.5, seen=None):
    if shown is None:
        shown = torch.ones(len(targets), 1, *SHAPE)
    found = region_weights(targets, shown, canvas=CANVAS, background=background, seen=seen)
    assert [one.shape for one in found] == [(len(targets), 1, *SHAPE)] * 2
    return [one[:, 0].tolist() for one in found]


def near(rows):
    return [pytest.approx(row) for row in rows]


def test_regions_by_hand_the_smallest_of_boxes_that_overlap_counts(target_of):
    # Areas 256 on four cells and 64 on one of them: 1, 4, 1, 1 of a sum of 7; four cells besides.
    region, inside = regions(target_of((0, 0, 16, 16), (8, 0, 16, 8)))

    m, n = 1 / 7, 0.5 / 4
    assert region[0] == near([[m, 4 * m, n, n], [m, m, n, n]])
    assert inside == [[[1, 1, 0, 0], [1, 1, 0, 0]]]


def test_a_box_smaller_than_a_cell_counts_as_one_of_its_size(target_of):
    # Areas 1, counted as 64, and 64; a third one has none.
    region, _ = regions(target_of((1, 1, 2, 2), (8, 0, 16, 8), (17, 9, 17, 9)))

    m, n = 1 / 3, 0.5 / 5
    assert region[0] == near([[m, m, n, n], [n, n, m, n]])


def test_an_image_without_boxes_has_the_same_in_all_cells_whatever_the_background(target_of):
    region, inside = regions(target_of(), background=0.0)

    assert region[0] == near([[1 / 8] * 4] * 2)
    assert inside == [[[0] * 4] * 2]


def test_with_background_0_cells_in_boxes_count_alone(target_of):
    region, _ = regions(target_of((0, 0, 8, 8)), background=0.0)

    assert region == [[[1, 0, 0, 0], [0, 0, 0, 0]]]


def test_boxes_that_are_not_looked_for_are_background(target_of):
    target = target_of((0, 0, 8, 8), (8, 0, 16, 8))

    region, inside = regions(target, seen=[torch.tensor([False, True])])
    assert region[0] == near([[0.5 / 7, 1, 0.5 / 7, 0.5 / 7], [0.5 / 7] * 4])
    assert inside == [[[0, 1, 0, 0], [0, 0, 0, 0]]]

    region, _ = regions(target, background=0.0, seen=[torch.tensor([False, False])])
    assert region[0] == near([[1 / 8] * 4] * 2)


def test_padding_counts_nothing_even_inside_a_box(target_of):
    shown = torch.tensor([[1.0, 1, 1, 0], [0, 0, 0, 0]])[None, None]

    region, inside = regions(target_of((16, 0, 32, 16)), shown=shown)

    assert region[0] == near([[0.25, 0.25, 1, 0], [0, 0, 0, 0]])
    assert inside == [[[0, 0, 1, 0], [0, 0, 0, 0]]]


@pytest.mark.parametrize(("origin", "open_cells"), [("human", 2), ("teacher", 0)])
def test_a_humans_ignore_region_counts_only_where_a_box_is(target_of, origin, open_cells):
    target = target_of((0, 0, 8, 8), ignore=[(0, 0, 24, 8)], origin=origin)

    region, _ = regions(target)

    n = 0.5 / (7 - open_cells)
    ignored = 0 if open_cells else n
    assert region[0] == near([[1, ignored, ignored, n], [n] * 4])


def test_an_image_that_is_ignored_as_a_whole_counts_nothing(target_of):
    region, _ = regions(target_of(ignore=[(0, 0, 32, 16)]), target_of())

    assert region == [[[0] * 4] * 2, near([[1 / 8] * 4] * 2)]


def weights(region, size, difference, *, attention=0.0, hardness=0.0):
    tensors = [torch.tensor(one)[None, None] for one in (region, size, difference)]
    return cell_weights(
        tensors[0][None], tensors[1], tensors[2], attention=attention, hardness=hardness
    )[0, 0].tolist()


def test_without_attention_and_hardness_cells_count_as_their_region():
    found = weights([0.3, 0.1, 0.0, 0.1], [9.0, 0, 0, 0], [0.0, 1, 2, 3])

    assert found == pytest.approx([0.6, 0.2, 0, 0.2])


def test_attention_by_hand():
    # exp(2 * 0.5 ln 3) = 3 times as much for the second as for the first; the last is no region.
    found = weights([1.0, 1.0, 0.0], [0.0, 0.5 * math.log(3), 9.0], [1.0, 2, 3], attention=2.0)

    assert found == pytest.approx([0.25, 0.75, 0])


def test_hardness_by_hand():
    # The mean over the cells of the region is 2: 1 + 0.5 * (0, 1, 2).
    found = weights([1.0, 1, 1, 0], [5.0, 0, 0, 0], [0.0, 2, 4, 1e6], hardness=0.5)

    assert found == pytest.approx([1 / 4.5, 1.5 / 4.5, 2 / 4.5, 0])


def test_hardness_is_bounded():
    # The last is 10 times the mean, and counts as 4 times.
    found = weights([1.0] * 10, [0.0] * 10, [0.0] * 9 + [1.0], hardness=1.0)

    assert found[-1] == pytest.approx((1 + MOST_HARDNESS) / (9 + 1 + MOST_HARDNESS))


def test_where_nothing_differs_no_cell_is_hard():
    assert weights([1.0, 3.0], [0.0, 0.0], [0.0, 0.0], hardness=1.0) == pytest.approx([0.25, 0.75])


def test_all_at_once_is_the_product_of_the_factors():
    generator = torch.Generator().manual_seed(0)
    region, size, difference = (torch.rand(2, 3, 5, generator=generator) for _ in range(3))
    region[0, 1] = 0

    found = cell_weights(region[:, None], size, difference, attention=2.0, hardness=0.7)

    region, size, difference = region.double(), size.double(), difference.double()
    for image in range(2):
        counted = [
            (row, column) for row in range(3) for column in range(5) if region[image, row, column]
        ]
        mean = sum(difference[image, *place] for place in counted) / len(counted)
        expected = torch.zeros(3, 5, dtype=torch.float64)
        for place in counted:
            hard = 1 + 0.7 * min(difference[image, *place] / mean, 4)
            expected[place] = region[image, *place] * (2 * size[image, *place]).exp() * hard
        torch.testing.assert_close(
            found[image].double(), expected / expected.sum(), rtol=1e-5, atol=0
        )


def test_the_sum_is_1_whatever_the_maps_hold():
    found = weights([1e-30, 1.0, 1e-3], [1e4, 0.0, 2e4], [1e30, 0, 1e-30], attention=2, hardness=9)

    assert found == pytest.approx([0, 0, 1])


def test_an_image_without_any_region_has_weights_of_0():
    found = weights([0.0, 0.0], [1.0, 2.0], [1.0, 2.0], attention=2.0, hardness=1.0)

    assert found == [0, 0]


def test_no_gradient_goes_through_hardness():
    difference = torch.rand(1, 2, 2, requires_grad=True)

    found = cell_weights(
        torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2), difference, attention=1.0, hardness=1.0
    )

    assert not found.requires_grad


def test_uniform_weights_are_the_same_where_image_is_shown():
    shown = torch.tensor([[[[1.0, 1.0, 0.0]]], [[[1.0, 0.0, 0.0]]]])

    assert uniform_weights(shown).tolist() == [[[0.5, 0.5, 0]], [[1, 0, 0]]]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.25, 0.25, 0.25, 0.25], 1.0),
        ([1.0, 0.0, 0.0, 0.0], 0.25),
        # 1 / (1/4 + 1/16 + 1/16) of 4 cells.
        ([0.5, 0.25, 0.25, 0.0], 8 / 3 / 4),
        # Of an image that counts nothing.
        ([0.0, 0.0, 0.0, 0.0], 1.0),
    ],
)
def test_evenness_by_hand(values, expected):
    found = evenness(torch.tensor(values).view(1, 2, 2), torch.ones(1, 1, 2, 2))

    assert found.item() == pytest.approx(expected)


def test_evenness_is_a_share_of_the_cells_that_show_image_and_a_mean_over_images():
    found = evenness(
        torch.tensor([[[0.5, 0.5, 0, 0]], [[1, 0, 0, 0]]]),
        torch.tensor([[[[1.0, 1, 0, 0]]], [[[1.0, 1, 1, 1]]]]),
    )

    assert found.item() == pytest.approx((1 + 0.25) / 2)

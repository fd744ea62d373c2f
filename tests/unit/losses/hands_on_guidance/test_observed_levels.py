"""Oracles: a ramp by hand, and statistics of all cells in float64."""

import pytest
import torch

from distildet.losses.hands_on_guidance.observed_levels import (
    grid_of,
    mean_and_variance,
    observe_level,
)


def test_each_part_of_an_image_is_described_by_its_mean(batch_of):
    # Two rows and two columns of cells in each part; padding below and to the right. A part at a
    # border of the map is pulled away from it.
    batch = batch_of(((64, 64), (32, 64)), (96, 80))
    rows, columns = torch.meshgrid(torch.arange(12.0), torch.arange(10.0), indexing="ij")
    feature = torch.stack([rows, columns]).expand(2, -1, -1, -1)

    grid = grid_of([observe_level("P3", feature, batch)], "P3").view(2, 4, 4, 2)

    middle = torch.tensor([2.5, 4.5, 6.5])
    torch.testing.assert_close(grid[0, 1:, :, 0], middle[:, None].expand(3, 4))
    torch.testing.assert_close(grid[0, :, 1:, 1], middle.expand(4, 3))
    # The second image is half as high: a part has one row.
    torch.testing.assert_close(
        grid[1, 1:, :, 0], torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 4)
    )


def test_grids_of_all_batches_are_joined_and_levels_kept_apart(batch_of):
    batch = batch_of(((32, 32),), (32, 32))
    observed = [
        {**observe_level("P3", torch.full((1, 2, 4, 4), one), batch)}
        | observe_level("P4", torch.full((1, 3, 2, 2), -one), batch)
        for one in (1.0, 2.0)
    ]

    values = torch.tensor([1.0] * 16 + [2.0] * 16)[:, None]
    torch.testing.assert_close(grid_of(observed, "P3"), values.expand(-1, 2))
    torch.testing.assert_close(grid_of(observed, "P4"), -values.expand(-1, 3))


def observed_batches(batch_of, maps):
    """Two batches, of two images and of one, with padding: 12, 4 and 8 cells show image."""
    first = batch_of(((24, 32), (16, 16)), (24, 32))
    second = batch_of(((16, 32),), (24, 32))
    return [observe_level("P3", maps[:2], first), observe_level("P3", maps[2:], second)]


SHOWN = (slice(0, 3), slice(0, 4)), (slice(0, 2), slice(0, 2)), (slice(0, 2), slice(0, 4))


def statistics(maps, images):
    cells = torch.cat([maps[image, :, *SHOWN[image]].flatten(1) for image in images], 1).double()
    mean = cells.sum(1) / cells.shape[1]
    return mean, (cells - mean[:, None]).square().sum(1) / cells.shape[1]


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_statistics_are_those_of_all_cells_that_show_image(batch_of, offset):
    maps = torch.randn(3, 5, 3, 4, generator=torch.Generator().manual_seed(0)) + offset

    found = mean_and_variance(observed_batches(batch_of, maps), "P3")

    for one, expected in zip(found, statistics(maps, range(3)), strict=True):
        torch.testing.assert_close(one.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e30])
def test_an_image_with_a_value_that_is_not_finite_does_not_spoil_the_rest(batch_of, value):
    # The square of the last is not finite.
    maps = torch.randn(3, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    maps[0, 3, 1, 1] = value

    found = mean_and_variance(observed_batches(batch_of, maps), "P3")

    for one, expected in zip(found, statistics(maps, (1, 2)), strict=True):
        torch.testing.assert_close(one.double(), expected, rtol=1e-4, atol=1e-5)


def test_without_any_finite_image_statistics_are_0(batch_of):
    maps = torch.full((3, 5, 3, 4), float("nan"))

    for one in mean_and_variance(observed_batches(batch_of, maps), "P3"):
        assert one.tolist() == [0] * 5


def test_a_map_of_one_cell_is_that_cell_in_all_parts_and_does_not_vary(batch_of):
    observed = observe_level("P7", torch.tensor([[[[3.0]]]]), batch_of(((32, 20),), (32, 32)))

    assert grid_of([observed], "P7").tolist() == [[3]] * 16
    assert [one.tolist() for one in mean_and_variance([observed], "P7")] == [[3], [0]]


def test_half_precision_is_observed_in_float32(batch_of):
    feature = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    batch = batch_of(((32, 32),), (32, 32))

    found, expected = (observe_level("P3", one, batch) for one in (feature, feature.float()))

    assert {one.dtype for one in found.values()} == {torch.float32}
    torch.testing.assert_close(found, expected)

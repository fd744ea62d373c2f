"""Oracles: a loop over sampled points in float64, and values by hand."""

import math

import pytest
import torch

from distildet.ops import instance_features as module
from distildet.ops.instance_features import instance_features

# A stride of 8 does not divide the canvas: cells are 50 / 7 and 70 / 9 pixels.
CANVAS, SHAPE = (50, 70), (7, 9)
BOXES = [
    [[3.0, 5.0, 40.0, 21.0], [10.5, 0.0, 12.0, 50.0], [60.0, 44.0, 70.0, 50.0]],
    [],
    # All, a point, and far beyond the canvas.
    [[0.0, 0.0, 70.0, 50.0], [30.0, 20.0, 30.0, 20.0], [-40.0, 30.0, 20.0, 93.0]],
]


def boxes_of(images):
    return [torch.tensor(own, dtype=torch.float32).reshape(-1, 4) for own in images]


def interpolated(rows, y, x):
    """The value at (y, x) of a map of which the middle of the first cell is (0, 0)."""
    height, width = len(rows), len(rows[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    value = 0.0
    for row in {math.floor(y), math.ceil(y)}:
        for column in {math.floor(x), math.ceil(x)}:
            value += (1 - abs(y - row)) * (1 - abs(x - column)) * rows[row][column]
    return value


def naive(rows, box, canvas):
    """The mean over 7 x 7 cells of the mean over 2 x 2 points in each."""
    scale_y, scale_x = len(rows) / canvas[0], len(rows[0]) / canvas[1]
    left, top, right, bottom = (
        end * scale - 0.5
        for end, scale in zip(box, (scale_x, scale_y, scale_x, scale_y), strict=True)
    )
    total = 0.0
    for row in range(7):
        for column in range(7):
            for down in (0.25, 0.75):
                for along in (0.25, 0.75):
                    y = top + (row + down) * (bottom - top) / 7
                    x = left + (column + along) * (right - left) / 7
                    total += interpolated(rows, y, x) / 4
    return total / 49


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_are_a_loop_over_the_points_of_roialign(dtype):
    torch.manual_seed(0)
    feature = torch.randn(3, 2, *SHAPE).to(dtype)

    found = instance_features(feature, boxes_of(BOXES), CANVAS)

    expected = [
        [naive(feature[image, c].tolist(), box, CANVAS) for c in range(2)]
        for image, own in enumerate(BOXES)
        for box in own
    ]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_of_a_ramp_it_is_the_value_at_the_middle_of_the_box():
    # Column = x * 9 / 70 - 1/2 at x = 35; row = y * 7 / 50 - 1/2 at y = 25.
    columns = torch.arange(9.0).expand(SHAPE)
    rows = torch.arange(7.0)[:, None].expand(SHAPE)

    found = instance_features(
        torch.stack([columns, rows])[None], boxes_of([[[14.0, 15.0, 56.0, 35.0]]]), CANVAS
    )

    torch.testing.assert_close(found, torch.tensor([[4.0, 3.0]]))


def test_the_gradient_of_a_cell_is_its_share_of_the_points():
    # The share is the value of a map that is 1 in the cell and 0 elsewhere.
    box = [3.0, 5.0, 40.0, 21.0]
    feature = torch.zeros(1, 1, *SHAPE, requires_grad=True)

    instance_features(feature, boxes_of([[box]]), CANVAS).sum().backward()

    shares = [
        naive(one.reshape(SHAPE).tolist(), box, CANVAS) for one in torch.eye(63, dtype=torch.double)
    ]
    torch.testing.assert_close(feature.grad.flatten(), torch.tensor(shares), rtol=1e-5, atol=1e-7)


def test_without_boxes_there_are_no_rows_but_a_graph():
    feature = torch.ones(2, 3, *SHAPE, requires_grad=True)

    found = instance_features(feature, boxes_of([[], []]), CANVAS)
    found.sum().backward()

    assert found.shape == (0, 3)
    assert not feature.grad.any()


# Memory


def with_gradient(feature, boxes, canvas):
    """Return the features, the gradient of their weighted sum, and the largest tensor kept."""
    given = feature.clone().requires_grad_()
    sizes = []

    def noted(kept):
        sizes.append(kept.numel())
        return kept

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda kept: kept):
        found = instance_features(given, boxes, canvas)
        (found * torch.arange(found.numel()).reshape(found.shape)).sum().backward()
    return found.detach(), given.grad, max(sizes)


@pytest.mark.parametrize("boxes", [BOXES, [[], BOXES[0], []]])
def test_images_one_by_one_give_the_features_and_gradients_of_the_padded_batch(boxes, monkeypatch):
    torch.manual_seed(0)
    given = torch.randn(3, 2, *SHAPE), boxes_of(boxes), CANVAS
    padded = with_gradient(*given)

    monkeypatch.setattr(module, "MOST_WEIGHTS", 3 * 3 * 63 - 1)  # 3 images, 3 boxes, 63 cells
    alone = with_gradient(*given)

    torch.testing.assert_close(alone[0], padded[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(alone[1], padded[1], rtol=1e-6, atol=1e-6)
    assert (padded[2], alone[2]) == (3 * 3 * 63, 3 * 63)


def test_beside_a_full_image_on_a_fine_map_one_with_few_boxes_is_not_padded():
    # 2 x 65 x 2^17 weights are above 2^24; without padding there are 65 x 2^17 of one image.
    cells = 2**17
    feature = torch.arange(512.0).expand(2, 1, 256, 512)  # value = column
    box = torch.tensor([[8.0, 8.0, 25.0, 24.0]])  # middle at 16.5

    found, _, largest = with_gradient(feature, [box.expand(65, 4), box], (256, 512))

    torch.testing.assert_close(found, torch.full((66, 1), 16.0))
    assert largest == 65 * cells

"""Oracles: maps by hand, and a loop over the cells in float64."""

import pytest
import torch

from distildet.ops.foreground import inside_boxes, painted

CANVAS, SHAPE = (16, 24), (2, 3)  # cells of 8 x 8


def one_image(boxes):
    return [torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)]


def random_boxes(count, canvas):
    start = torch.rand(count, 2) * torch.tensor([canvas[1] - 8.0, canvas[0] - 8.0])
    return torch.cat([start, start + 1 + torch.rand(count, 2) * 7], 1)


def naive(boxes, values, canvas, shape):
    """The value of the smallest box, cell by cell; None where there is no box."""
    cell = canvas[0] / shape[0], canvas[1] / shape[1]
    found = []
    for y in range(shape[0]):
        for x in range(shape[1]):
            best = None
            for (x1, y1, x2, y2), value in zip(boxes.tolist(), values.tolist(), strict=True):
                if (
                    y1 < (y + 1) * cell[0]
                    and y2 > y * cell[0]
                    and x1 < (x + 1) * cell[1]
                    and x2 > x * cell[1]
                ):
                    area = (x2 - x1) * (y2 - y1)
                    best = (area, value) if best is None or area <= best[0] else best
            found.append(None if best is None else best[1])
    return found


@pytest.mark.parametrize(
    ("box", "cells"),
    [
        # Ends on a border of cells do not reach over it.
        ([8, 0, 16, 8], [[0, 1, 0], [0, 0, 0]]),
        ([7.9, 0, 16.1, 8], [[1, 1, 1], [0, 0, 0]]),
        ([0, 0, 24, 16], [[1, 1, 1], [1, 1, 1]]),
        # Tiny, in the last cell and at the last border.
        ([23, 15, 23.5, 15.5], [[0, 0, 0], [0, 0, 1]]),
        ([23.999, 15.999, 24, 16], [[0, 0, 0], [0, 0, 1]]),
        # Without area: in a cell, between two, at the last border; and off the canvas.
        ([4, 4, 4, 4], [[1, 0, 0], [0, 0, 0]]),
        ([8, 0, 8, 8], [[0, 1, 0], [0, 0, 0]]),
        ([24, 16, 24, 16], [[0, 0, 0], [0, 0, 1]]),
        ([-9, 9, -3, 30], [[0, 0, 0], [1, 0, 0]]),
    ],
)
def test_a_box_lies_in_the_cells_of_which_it_has_area_and_in_at_least_one(box, cells):
    boxes = one_image([box])

    assert inside_boxes(boxes, canvas=CANVAS, shape=SHAPE)[0, 0].int().tolist() == cells
    assert painted(boxes, [torch.ones(1)], canvas=CANVAS, shape=SHAPE)[0, 0].tolist() == cells


def test_the_smallest_box_is_seen_whatever_the_order():
    # 24 x 8 under 16 x 8 under 8 x 8.
    boxes = one_image([[8, 0, 16, 8], [0, 0, 24, 8], [0, 0, 16, 8]])
    values = [torch.tensor([0.25, 3.0, -1.0])]
    backwards = [boxes[0].flip(0)], [values[0].flip(0)]

    expected = [[-1.0, 0.25, 3.0], [0.0, 0.0, 0.0]]
    assert painted(boxes, values, canvas=CANVAS, shape=SHAPE)[0, 0].tolist() == expected
    assert painted(*backwards, canvas=CANVAS, shape=SHAPE)[0, 0].tolist() == expected


def test_of_boxes_with_equal_area_the_last_is_seen():
    boxes = one_image([[0, 0, 16, 8], [8, 0, 24, 8], [0, 0, 16, 8]])

    value = painted(boxes, [torch.tensor([1.0, 2.0, 3.0])], canvas=CANVAS, shape=SHAPE)

    assert value[0, 0, 0].tolist() == [3.0, 3.0, 2.0]


def test_a_box_of_value_0_hides_a_larger_one_and_is_a_box():
    boxes = one_image([[0, 0, 8, 8], [0, 0, 16, 8]])

    value = painted(boxes, [torch.tensor([0.0, 1.0])], canvas=CANVAS, shape=SHAPE)

    assert value[0, 0, 0].tolist() == [0.0, 1.0, 0.0]
    assert inside_boxes(boxes, canvas=CANVAS, shape=SHAPE)[0, 0, 0].tolist() == [True, True, False]


def test_images_with_fewer_boxes_or_none_are_seen_as_alone():
    boxes = [one_image([[8, 0, 24, 8], [0, 0, 1, 1]])[0], torch.zeros(0, 4), torch.zeros(1, 4) + 12]
    values = [torch.tensor([5.0, 7.0]), torch.zeros(0), torch.tensor([2.0])]

    inside = inside_boxes(boxes, canvas=CANVAS, shape=SHAPE)
    value = painted(boxes, values, canvas=CANVAS, shape=SHAPE)

    assert value[:, 0].tolist() == [
        [[7.0, 5.0, 5.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]],
        [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]],
    ]
    assert inside.equal(value > 0)


def test_a_batch_without_any_box_is_0_everywhere():
    boxes, values = [torch.zeros(0, 4)] * 2, [torch.zeros(0)] * 2

    value = painted(boxes, values, canvas=CANVAS, shape=SHAPE)

    assert value.dtype == torch.float32
    assert value.equal(torch.zeros(2, 1, *SHAPE))
    assert inside_boxes(boxes, canvas=CANVAS, shape=SHAPE).equal(value.bool())


@pytest.mark.parametrize("shape", [(8, 12), (5, 7), (1, 1)])
def test_maps_equal_a_loop_over_the_cells_also_where_the_stride_does_not_divide(shape):
    torch.manual_seed(0)
    canvas = (64, 96)
    boxes = [random_boxes(count, canvas) for count in (9, 4)]
    values = [torch.rand(len(own)) + 0.5 for own in boxes]

    found = painted(boxes, values, canvas=canvas, shape=shape)
    inside = inside_boxes(boxes, canvas=canvas, shape=shape)

    loop = [naive(*own, canvas, shape) for own in zip(boxes, values, strict=True)]
    assert found.flatten(1).tolist() == [[value or 0.0 for value in image] for image in loop]
    assert inside.flatten(1).tolist() == [[value is not None for value in image] for image in loop]


def test_values_that_are_not_one_a_box_are_refused():
    with pytest.raises(ValueError, match=r"values are \[1, 1\] an image, expected \[2, 0\]"):
        painted(
            [torch.zeros(2, 4), torch.zeros(0, 4)], [torch.ones(1)] * 2, canvas=CANVAS, shape=SHAPE
        )


def test_boxes_that_are_not_seen_change_nothing():
    boxes = [torch.tensor([[0.0, 0, 16, 16], [4, 4, 8, 8], [16, 0, 24, 8]]), torch.zeros(0, 4)]
    values = [torch.tensor([0.2, 0.9, 0.5]), torch.zeros(0)]
    seen = [torch.tensor([True, False, True]), torch.zeros(0, dtype=torch.bool)]
    frame = {"canvas": (24, 32), "shape": (6, 8)}
    of_seen = [own[chosen] for own, chosen in zip(boxes, seen, strict=True)]

    inside = inside_boxes(boxes, **frame, seen=seen)
    map_of_values = painted(boxes, values, **frame, seen=seen)

    assert torch.equal(inside, inside_boxes(of_seen, **frame))
    expected = painted(of_seen, [values[0][seen[0]], values[1]], **frame)
    assert torch.equal(map_of_values, expected)
    assert not torch.equal(map_of_values, painted(boxes, values, **frame))

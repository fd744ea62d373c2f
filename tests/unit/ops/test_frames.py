"""Conversion between frames."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distildet.ops.frames import map_boxes, to_image_frame
from distildet.structures import ImageBatch


def matrix(sx, sy, tx, ty):
    return torch.tensor([[sx, 0, tx], [0, sy, ty], [0, 0, 1]], dtype=torch.float64)


def batch_of(image_to_batch, image_size, size):
    return ImageBatch(
        pixels=torch.zeros(1, 3, 128, 128),
        sizes=torch.tensor([size]),
        image_sizes=torch.tensor([image_size]),
        image_to_batch=image_to_batch[None],
        image_ids=("a",),
    )


def test_scale_and_shift_act_on_each_axis_by_themselves():
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])

    mapped = map_boxes(boxes, matrix(2.0, 3.0, 10.0, 20.0))

    # x: 1*2+10, 3*2+10; y: 2*3+20, 4*3+20
    assert mapped.tolist() == [[12.0, 26.0, 16.0, 32.0]]
    assert mapped.dtype == torch.float32


def test_a_mirror_keeps_the_corners_in_order():
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0]])

    mapped = map_boxes(boxes, matrix(-1.0, 1.0, 10.0, 0.0))

    assert mapped.tolist() == [[7.0, 2.0, 9.0, 4.0]]


def test_no_boxes_stay_no_boxes():
    assert map_boxes(torch.zeros(0, 4), matrix(2.0, 2.0, 0.0, 0.0)).shape == (0, 4)


@pytest.mark.parametrize(
    ("boxes", "by", "message"),
    [
        (torch.zeros(4), torch.eye(3), r"boxes have shape \(4,\)"),
        (torch.zeros(2, 5), torch.eye(3), r"boxes have shape \(2, 5\)"),
        (torch.zeros(2, 4), torch.eye(2), r"matrix has shape \(2, 2\)"),
    ],
)
def test_wrong_shapes_are_refused(boxes, by, message):
    with pytest.raises(ValueError, match=message):
        map_boxes(boxes, by)


def test_boxes_of_the_padding_are_clipped_to_the_image():
    batch = batch_of(matrix(0.5, 0.5, 0.0, 0.0), image_size=(100, 200), size=(50, 100))

    boxes = to_image_frame(torch.tensor([[-5.0, 10.0, 120.0, 60.0]]), batch, 0)

    assert boxes.tolist() == [[0.0, 20.0, 200.0, 100.0]]


@given(
    sx=st.floats(0.05, 8),
    sy=st.floats(0.05, 8),
    mirrored=st.booleans(),
    x=st.floats(0, 1800),
    y=st.floats(0, 900),
    width=st.floats(1, 200),
    height=st.floats(1, 100),
)
def test_a_round_trip_returns_the_box(sx, sy, mirrored, x, y, width, height):
    sign = -1.0 if mirrored else 1.0
    by = matrix(sign * sx, sy, 2000 * sx * mirrored, 0.0)
    batch = batch_of(by, image_size=(1000, 2000), size=(8000, 16000))
    box = torch.tensor([[x, y, x + width, y + height]])

    returned = to_image_frame(map_boxes(box, by), batch, 0)

    assert torch.allclose(returned, box, rtol=0, atol=2e-3)

"""Oracles: values by hand, a composition of tensor operations, finite differences."""

import pytest
import torch
from torch.nn import functional as F

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


def composed(own, guide, count, *, direction):
    magnitude = F.huber_loss(own, guide, reduction="none").sum(1) / count
    further = LEAST_SIZE**2 * count
    norms = [(one.square().sum(1) + further).sqrt() for one in (own, guide)]
    return magnitude + direction * (1 - ((own * guide).sum(1) + further) / norms[0] / norms[1])


@pytest.fixture
def maps():
    torch.manual_seed(0)
    own, guide = 2 * torch.randn(2, 7, 3, 4).double(), torch.randn(2, 7, 3, 4).double()
    return own.requires_grad_(), guide


@pytest.mark.parametrize("direction", [0.0, 0.5, 3.0])
def test_value_and_gradient_are_those_of_a_composition(maps, direction):
    count, factors = torch.tensor(7), torch.rand(2, 3, 4).double()
    values, gradients = zip(
        *(
            (found, torch.autograd.grad((found * factors).sum(), maps[0])[0])
            for found in (
                hands_on_difference(*maps, count, direction=direction),
                composed(*maps, count, direction=direction),
            )
        ),
        strict=True,
    )

    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", [0.0, 0.5])
def test_the_gradient_is_that_of_finite_differences(maps, direction):
    own, guide = maps

    assert torch.autograd.gradcheck(
        lambda one: hands_on_difference(one, guide, torch.tensor(7), direction=direction), own
    )


def test_the_teacher_gets_no_gradient(maps):
    own, guide = maps
    guide = guide.requires_grad_()

    hands_on_difference(own, guide, torch.tensor(7), direction=0.5).sum().backward()

    assert own.grad is not None
    assert guide.grad is None

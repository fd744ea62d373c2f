"""Oracles: values by hand of two cells, and of three."""

import math

import pytest
import torch

from distildet.losses.hands_on_guidance.channel_scales import ChannelScales
from distildet.losses.hands_on_guidance.guided_level import GuidedLevel
from distildet.losses.hands_on_guidance.levels import LevelGroup
from distildet.specs import FeatureLevel

PLAIN = {"direction": 0.0, "attention": 0.0, "hardness": 0.0}
# One image of two cells, of which the first is in a box: 1 and 0.5.
SHOWN = torch.ones(1, 1, 1, 2)
INSIDE = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
REGION = torch.tensor([1.0, 0.5]).view(1, 1, 1, 2)


@pytest.fixture
def level_of(options_of):
    def make(channels=1, widths=(1,), **options):
        guide = tuple(
            FeatureLevel(name=f"P{place}", channels=width, stride=2**place)
            for place, width in enumerate(widths, start=3)
        )
        group = LevelGroup(group="neck", own=(), guide=guide, measure="root of area")
        return GuidedLevel(channels, group, options_of(**options))

    return make


def row(*values):
    return torch.tensor(values).view(1, 1, 1, -1)


def scales_of(mean, variance):
    scales = ChannelScales(1)
    scales.fill(torch.tensor([mean]), torch.tensor([variance]))
    return scales


def compared(level, own, guide, *, scales=None, margin=None):
    scales = ChannelScales(guide.shape[1]) if scales is None else scales
    margin = None if margin is None else torch.tensor(margin)
    return level(own, guide, scales, lambda _: (SHOWN, REGION, INSIDE), margin)


# Differences of 2 and 1 where nothing else is said: by huber 1.5 and 0.5.
OWN, GUIDE = row(3.0, 3.0), row(1.0, 2.0)


def test_by_hand_without_anything_but_regions(level_of):
    found = compared(level_of(**PLAIN), OWN, GUIDE)

    assert found.value.item() == pytest.approx(2 / 3 * 1.5 + 1 / 3 * 0.5)
    assert found.foreground.item() == pytest.approx(2 / 3)
    assert found.evenness.item() == pytest.approx(1 / (4 / 9 + 1 / 9) / 2)
    assert found.released is None


def test_with_micro_off_all_cells_count_the_same(level_of):
    level = level_of(micro=False, direction=0.0)

    found = compared(level, OWN, GUIDE)

    assert found.value.item() == pytest.approx(1.0)
    assert found.foreground.item() == pytest.approx(0.5)
    assert found.evenness.item() == 1


def test_values_are_in_units_of_the_teachers_deviation(level_of):
    # Differences of 1 and 0.5: 0.5 and 0.125.
    found = compared(level_of(**PLAIN), OWN, GUIDE, scales=scales_of(7.0, 4.0))

    assert found.value.item() == pytest.approx(2 / 3 * 0.5 + 1 / 3 * 0.125)


def test_attention_looks_at_the_standardised_teacher(level_of):
    # |t| = |1 - 5| / 2 and |2 - 5| / 2: exp(0.5 ln 2 * 0.5) = 2 ** 0.25 times as much.
    level = level_of(**PLAIN | {"attention": 0.5 * math.log(2)})

    found = compared(level, OWN, GUIDE, scales=scales_of(5.0, 4.0))

    weight = 2**0.25 / (2**0.25 + 0.5)
    assert found.value.item() == pytest.approx(weight * 0.5 + (1 - weight) * 0.125)


def test_hardness_by_hand(level_of):
    # e / ē = 1.5 and 0.5: 1 * 2.5 and 0.5 * 1.5.
    found = compared(level_of(**PLAIN | {"hardness": 1.0}), OWN, GUIDE)

    assert found.value.item() == pytest.approx((2.5 * 1.5 + 0.75 * 0.5) / 3.25)


def test_direction_by_hand(level_of):
    # Of one channel the direction is that of its sign.
    found = compared(level_of(**PLAIN | {"direction": 0.5}), row(3.0, -3.0), row(1.0, 2.0))

    assert found.value.item() == pytest.approx(2 / 3 * 1.5 + 1 / 3 * (4.5 + 0.5 * 2), rel=1e-4)


def test_squared_by_hand_in_the_teachers_own_units(level_of):
    # (2² and 1²) / 4.
    found = compared(
        level_of(**PLAIN | {"measure": "squared", "direction": None}),
        OWN,
        GUIDE,
        scales=scales_of(7.0, 4.0),
    )

    assert found.value.item() == pytest.approx(2 / 3 * 1 + 1 / 3 * 0.25)


def test_a_margin_leaves_what_lies_below_it_alone(level_of):
    level = level_of(**PLAIN, release=0.5)
    own = OWN.clone().requires_grad_()

    found = compared(level, own, GUIDE, margin=0.75)
    found.value.backward()

    assert found.value.item() == pytest.approx(2 / 3 * 0.75)
    assert own.grad.flatten().tolist() == pytest.approx([2 / 3, 0])
    # What the next margins are taken from is the difference itself.
    assert found.released.item() == pytest.approx(0.5)


def test_hardness_is_of_what_is_left_above_the_margin(level_of):
    # 0.75 and 0, of mean 0.375: 1 * 3 and 0.5 * 1.
    level = level_of(**PLAIN | {"hardness": 1.0}, release=0.5)

    found = compared(level, OWN, GUIDE, margin=0.75)

    assert found.value.item() == pytest.approx(3 / 3.5 * 0.75)


def test_between_equal_channels_the_student_is_taken_as_it_is(level_of):
    level = level_of(channels=2, widths=(1, 2, 3), **PLAIN)
    own = torch.randn(1, 2, 1, 2, generator=torch.Generator().manual_seed(0))

    assert compared(level, own, own).value == 0


def test_of_a_narrower_level_the_first_channels_are_compared(level_of):
    level = level_of(channels=2, widths=(1, 3), **PLAIN)
    weight = torch.tensor([[1.0, 2.0], [9.0, 9.0], [9.0, 9.0]])
    with torch.no_grad():
        level.projector.weight.copy_(weight[:, :, None, None])
        level.projector.bias.copy_(torch.tensor([0.5, 9.0, 9.0]))
    own = torch.tensor([[1.0, 0.0], [0.5, 0.25]])[None, :, None]

    # 1 + 1 + 0.5 and 0 + 0.5 + 0.5: differences of 1.5 and -1.
    found = compared(level, own, row(1.0, 2.0))

    assert found.value.item() == pytest.approx(2 / 3 * 1 + 1 / 3 * 0.5)


def test_maps_of_other_sizes_are_compared_on_the_coarser_grid(level_of):
    # Means of 2 and 4, and of 1 and 5.
    fine = torch.tensor([[1.0, 3.0, 4.0, 4.0], [1.0, 3.0, 6.0, 2.0]])[None, None]
    shapes = []

    def cells(feature):
        shapes.append(feature.shape)
        return SHOWN, REGION, INSIDE

    for own, guide in ((fine, row(2.0, 3.0)), (row(2.0, 3.0), fine)):
        found = level_of(**PLAIN)(own, guide, ChannelScales(1), cells, None)
        assert found.value.item() == pytest.approx(1 / 3 * 0.5)

    assert shapes == [(1, 1, 1, 2)] * 2


def test_the_value_is_a_mean_over_images(level_of):
    own, guide = OWN.expand(2, -1, -1, -1), torch.cat([GUIDE, OWN])

    found = level_of(**PLAIN)(
        own,
        guide,
        ChannelScales(1),
        lambda _: tuple(one.expand(2, -1, -1, -1) for one in (SHOWN, REGION, INSIDE)),
        None,
    )

    assert found.value.item() == pytest.approx((2 / 3 * 1.5 + 1 / 3 * 0.5) / 2)

"""Oracles: weights by hand, and what bounds, sum and proportions must be."""

import math

import pytest
import torch

from distildet.losses.hands_on_guidance.macro_weights import (
    LARGEST,
    LEAST,
    START,
    STOP,
    MacroWeights,
    bounded_weights,
)

ALL = torch.ones(5, dtype=torch.bool)


@pytest.mark.parametrize(
    ("lag", "expected"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0], [1, 1, 1, 1, 1]),
        # e⁰ : e^ln 2 : e^ln 3 ... of sum 5, no bound is met.
        ([0.0, math.log(2), math.log(2), math.log(2), math.log(3)], [0.5, 1, 1, 1, 1.5]),
        # The first at the upper bound, the rest is shared; or the last at the lower one as well.
        ([9.0, 0.0, 0.0, 0.0, 0.0], [3, 0.5, 0.5, 0.5, 0.5]),
        ([9.0, 1.0, 1.0, 1.0, -9.0], [3, 0.6, 0.6, 0.6, 0.2]),
        # Four at the lower bound leave 4.2, of which two get as much.
        ([9.0, 9.0, -9.0, -9.0, -9.0], [2.2, 2.2, 0.2, 0.2, 0.2]),
    ],
)
def test_bounded_weights_by_hand(lag, expected):
    found = bounded_weights(torch.tensor(lag), ALL)

    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


def test_a_single_weight_is_1():
    assert bounded_weights(torch.tensor([7.0]), ALL[:1]).tolist() == [1]


@pytest.mark.parametrize("size", [2, 3, 8, 19])
@pytest.mark.parametrize("scale", [0.1, 1.0, 10.0, 1e4, 1e8])
def test_bounds_and_sum_are_met_and_between_the_bounds_weights_are_in_proportion(size, scale):
    lag = scale * torch.rand(size, generator=torch.Generator().manual_seed(size))

    found = bounded_weights(lag, torch.ones(size, dtype=torch.bool))

    assert found.min() >= LEAST
    assert found.max() <= LARGEST
    assert found.sum().item() == pytest.approx(size, rel=1e-5)
    between = (found > LEAST) & (found < LARGEST)
    # Where weights are c exp(lag), log weight - lag is log c for all of them.
    constants = found[between].double().log() - lag[between].double()
    torch.testing.assert_close(constants, constants[:1].expand_as(constants), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("far", [1e3, 1e6, 1e8])
def test_the_sum_holds_however_far_one_level_lags(far):
    found = bounded_weights(torch.tensor([far, 0.0, 0.0, 0.0, 0.0]), ALL)

    torch.testing.assert_close(found, torch.tensor([3, 0.5, 0.5, 0.5, 0.5]), rtol=1e-5, atol=0)


def test_levels_that_do_not_count_have_1_and_leave_their_number_to_the_others():
    counts = torch.tensor([True, False, True, True, False])

    found = bounded_weights(torch.tensor([0.0, 99.0, 0.0, math.log(4), -99.0]), counts)

    torch.testing.assert_close(found, torch.tensor([0.5, 1, 0.5, 2, 1]))


def test_where_no_level_counts_all_have_1():
    assert bounded_weights(torch.tensor([0.0, 5.0]), torch.zeros(2, dtype=torch.bool)).eq(1).all()


def learned(*steps, temperature=1.0):
    weights = MacroWeights(2, temperature)
    # Values of the first step are not looked at, only when it was.
    for values, progress in (([1e6, 1e-6], 0.0), *steps):
        weights.learn(values, progress)
    return weights.weights


FIRST = (([1.0, 6.0], START), ([3.0, 2.0], (START + STOP) / 2))
"""Of means 2 and 4."""


@pytest.mark.parametrize("steps", [(), (([9.0, 1.0], START - 0.001),), FIRST])
def test_all_weights_are_1_until_there_is_progress_to_compare(steps):
    assert learned(*steps).tolist() == [1, 1]


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_the_level_that_lags_counts_more_by_hand(temperature):
    # Values before the start are not looked at. R = 2 / 2 and 2 / 4.
    steps = ([1e6, 1e-6], START - 0.001), *FIRST, ([2.0, 2.0], STOP)

    first = 2 / (1 + math.exp(-0.5 / temperature))
    expected = torch.tensor([first, 2 - first])
    torch.testing.assert_close(learned(*steps, temperature=temperature), expected)


def test_later_values_are_averaged_over_a_share_of_the_stage():
    # After STOP (2, 2) and (4, 2): half of each, R = 3 / 2 and 2 / 4.
    steps = *FIRST, ([2.0, 2.0], STOP), ([4.0, 2.0], STOP + 0.02 * math.log(2))

    first = 2 / (1 + math.exp(-1))
    torch.testing.assert_close(learned(*steps), torch.tensor([first, 2 - first]))


def test_a_term_that_begins_late_measures_progress_from_its_first_steps():
    weights = MacroWeights(2, 1.0)
    # R = 2 / 2 and 2 / 4: the window is as far behind the first step as at the start of a stage.
    for values, progress in (
        ([1e6, 1e-6], 0.5),
        ([2.0, 4.0], 0.5 + (START + STOP) / 2),
        ([2.0, 2.0], 0.57),
    ):
        assert weights.weights.tolist() == [1, 1]
        weights.learn(values, progress)

    first = 2 / (1 + math.exp(-0.5))
    torch.testing.assert_close(weights.weights, torch.tensor([first, 2 - first]))


def test_of_a_short_stage_one_step_is_the_start():
    late = ([2.0, 4.0], 0.5)

    assert learned(late).tolist() == [1, 1]
    assert learned(late, ([2.0, 2.0], 0.6)).tolist() != [1, 1]


def test_started_again_it_is_as_new():
    weights = MacroWeights(2, 1.0)
    for values, progress in (*FIRST, ([2.0, 2.0], 0.5), ([2.0, 2.0], 0.7)):
        weights.learn(values, progress)
    assert weights.weights.tolist() != [1, 1]

    weights.restart()

    new = MacroWeights(2, 1.0).state_dict()
    assert all(torch.equal(value, new[name]) for name, value in weights.state_dict().items())


def test_a_level_without_a_difference_at_the_start_has_1():
    steps = ([0.0, 4.0], START), ([5.0, 2.0], STOP)

    assert learned(*steps).tolist() == [1, 1]


@pytest.mark.parametrize("start", [1e-6, 1e-30, 1e-44])
def test_a_level_that_began_with_hardly_any_difference_has_its_bounds(start):
    steps = ([start, 4.0], START), ([5.0, 2.0], STOP)

    found = learned(*steps)

    assert 1.8 <= found[0] <= LARGEST
    assert found[1].item() == pytest.approx(LEAST)


def test_one_with_the_state_of_another_goes_on_as_it():
    weights, other = MacroWeights(2, 1.0), MacroWeights(2, 1.0)
    for values, progress in (([1.0, 1.0], 0.0), *FIRST):
        weights.learn(values, progress)

    other.load_state_dict(weights.state_dict())
    for one in (weights, other):
        one.learn([2.0, 2.0], STOP)

    assert other.weights.tolist() == weights.weights.tolist() != [1, 1]

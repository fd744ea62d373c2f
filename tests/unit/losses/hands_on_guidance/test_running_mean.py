"""Oracles: means by hand."""

import math

import pytest
import torch

from distildet.losses.hands_on_guidance.running_mean import RunningMean

HALF = 0.1 * math.log(2)
"""Share of the stage after which half is forgotten, with a horizon of 0.1."""


def learned(*steps):
    mean = RunningMean(2, 0.1)
    for values, progress in steps:
        mean.learn(values, progress)
    return mean.value.tolist()


def test_it_is_0_before_it_learns():
    assert learned() == [0, 0]


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_the_first_values_are_taken_as_they_are(progress):
    assert learned(([3.0, 5.0], progress)) == [3, 5]


def test_what_was_seen_is_forgotten_by_the_share_of_the_stage_that_passed():
    # Half of (4, 0) and of (8, 8), then a quarter of that and 3/4 of 0.
    steps = ([4.0, 0.0], 0.2), ([8.0, 8.0], 0.2 + HALF), ([0.0, 0.0], 0.2 + 3 * HALF)

    assert learned(*steps[:2]) == pytest.approx([6, 4], rel=1e-5)
    assert learned(*steps) == pytest.approx([1.5, 1], rel=1e-5)


def test_in_many_short_steps_as_much_is_forgotten_as_in_one_long():
    short = [([8.0, 8.0], 0.2 + HALF * step / 50) for step in range(1, 51)]

    assert learned(([4.0, 0.0], 0.2), *short) == pytest.approx([6, 4], rel=1e-4)


def test_one_with_the_state_of_another_goes_on_as_it():
    mean, other = RunningMean(1, 0.1), RunningMean(1, 0.1)
    mean.learn([4.0], 0.2)

    other.load_state_dict(mean.state_dict())
    other.learn([8.0], 0.2 + HALF)

    torch.testing.assert_close(other.value, torch.tensor([6.0]), rtol=1e-5, atol=0)

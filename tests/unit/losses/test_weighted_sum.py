"""Oracle: quotients by hand."""

import pytest
import torch

from distildet.losses.weighted_sum import WeightedSum, weighted_means
from distildet.ops.reduce import add_up, counting, with_totals


def one(value, count, factor=1.0):
    return WeightedSum(
        value=torch.tensor(value, requires_grad=True), count=torch.tensor(count), factor=factor
    )


def test_each_sum_is_divided_by_its_own_count_and_those_of_a_name_add_up():
    found = weighted_means({"a": [one(6.0, 3.0, 0.5), one(8.0, 2.0)], "b": [one(5.0, 4.0, 2.0)]})

    # 6 / 3 / 2 + 8 / 2, and 2 * 5 / 4.
    assert {name: value.item() for name, value in found.items()} == {"a": 5.0, "b": 2.5}


@pytest.mark.parametrize("count", [0.0, 0.25])
def test_a_count_below_1_is_1(count):
    assert weighted_means({"a": [one(3.0, count)]})["a"].item() == 3.0


def test_the_gradient_is_the_factor_over_the_count():
    only = one(6.0, 4.0, 3.0)

    weighted_means({"a": [only]})["a"].backward()

    assert only.value.grad.item() == 0.75


def test_the_mean_over_parts_is_the_quotient_of_all_in_one_message_a_part():
    # Of three images the first part has one, the second two. (1 + 3) / (2 + 6), 2 (4 + 8) / 3.
    def parts(first, second):
        return weighted_means({"a": [one(*first)], "b": [one(*second, 2.0)]})

    values = ((1.0, 2.0), (4.0, 0.0)), ((3.0, 6.0), (8.0, 3.0))
    with counting(1 / 3) as first:
        parts(*values[0])
    with counting(2 / 3) as second:
        parts(*values[1])
    totals = add_up([first, second])
    with with_totals(1 / 3, totals):
        start = parts(*values[0])
    with with_totals(2 / 3, totals):
        end = parts(*values[1])

    assert len(first) == len(second) == 1
    found = {name: (start[name] / 3 + end[name] * 2 / 3).item() for name in start}
    assert found == pytest.approx({"a": 0.5, "b": 8.0})

"""Oracle: the value of the whole batch."""

import pytest
import torch

from distildet.ops.reduce import (
    add_up,
    batch_normaliser,
    batch_share,
    batch_total,
    counting,
    with_totals,
)

VALUES = torch.tensor([1.0, 2, 4, 8, 16])
COUNTS = torch.tensor([0.0, 0, 3, 0, 2])


def loss(chosen):
    """Sum of values divided by a count over the batch."""
    return VALUES[chosen].sum() / batch_normaliser(COUNTS[chosen].sum())


def in_parts(parts):
    counted = []
    for part in parts:
        with counting(len(part) / 5) as values:
            loss(part)
        counted.append(values)
    totals = add_up(counted)
    mean = 0.0
    for part in parts:
        with with_totals(len(part) / 5, totals):
            mean += loss(part) * len(part) / 5
    return mean


def test_a_whole_batch_is_its_own_total():
    assert loss([0, 1, 2, 3, 4]) == 31 / 5
    assert batch_share() == 1
    assert batch_total(VALUES).equal(VALUES)


@pytest.mark.parametrize(
    "parts", [[[0, 1, 2], [3, 4]], [[0], [1], [2], [3], [4]], [[0, 1, 2, 3, 4]]]
)
def test_the_mean_over_parts_is_the_value_of_the_whole_batch(parts):
    assert in_parts(parts) == pytest.approx(31 / 5)


def test_where_nothing_is_counted_the_least_normaliser_holds_for_the_whole_batch():
    with counting(0.5) as values:
        batch_normaliser(torch.tensor(0.0))

    with with_totals(0.5, add_up([values, values])):
        assert batch_normaliser(torch.tensor(0.0)) == 0.5


def test_a_total_has_no_gradient():
    value = torch.tensor([2.0], requires_grad=True)

    assert not batch_total(value).requires_grad
    with counting(1.0) as values:
        assert not batch_total(value).requires_grad
    assert not values[0].requires_grad


def test_a_loss_that_counts_without_saying_so_is_refused():
    with with_totals(0.5, []), pytest.raises(RuntimeError, match="counts_over_batch = False"):
        batch_total(torch.tensor(1.0))


def test_parts_that_count_different_things_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        add_up([[torch.tensor(1.0)], []])


def test_after_the_block_a_batch_is_whole_again():
    with counting(0.5):
        assert batch_share() == 0.5

    assert batch_share() == 1

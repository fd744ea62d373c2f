"""Shared work against the same work of one process."""

import pytest
import torch

from distildet.errors import ConfigError, DataError, InterruptedRunError
from distildet.ops.processes import num_processes, rank
from distildet.ops.shared_work import on_first, share_out

COUNTS = pytest.mark.parametrize("count", [1, 2, 3])


def squares(items):
    return (item * item for item in items)


def failing_at(*bad):
    """Return squares that end with an error at some items."""

    def compute(items):
        for item in items:
            if item in bad:
                raise DataError(f"item {item} in process {rank()}")
            yield item * item

    return compute


def test_one_process_computes_everything():
    assert share_out([1, 2, 3], squares) == ([1, 4, 9], None)


def test_one_process_keeps_the_values_before_an_error():
    values, error = share_out([1, 2, 3], failing_at(2))

    assert values == [1]
    assert str(error) == "item 2 in process 0"


def test_an_error_after_the_last_value_is_told():
    def compute(items):
        yield from items
        raise DataError("at the end")

    values, error = share_out([1], compute)

    assert values == [1]
    assert str(error) == "at the end"


def test_too_few_values_are_a_bug():
    with pytest.raises(ValueError, match="item 1 of 2 has no value"):
        share_out([1, 2], lambda items: items[:1])


@COUNTS
@pytest.mark.parametrize("items", [[], [1], [1, 2, 3, 4, 5]])
def test_values_come_in_the_order_of_the_items_in_every_process(in_processes, count, items):
    results = in_processes(lambda: share_out(items, squares), count)

    assert results == [([item * item for item in items], None)] * count


def test_each_process_computes_its_share_alone(in_processes):
    results = in_processes(lambda: share_out(range(5), lambda share: [rank()] * len(share)))

    assert results[0] == ([0, 1, 0, 1, 0], None)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ((0,), "item 0 in process 0"),
        ((3,), "item 3 in process 1"),
        ((2, 3), "item 2 in process 0"),
        ((4, 1), "item 1 in process 1"),
    ],
)
def test_the_first_error_by_item_reaches_every_process(in_processes, bad, message):
    results = in_processes(lambda: share_out(range(5), failing_at(*bad)))

    assert [values for values, _ in results] == [[item**2 for item in range(min(bad))]] * 2
    assert [str(error) for _, error in results] == [message] * 2
    assert [type(error) for _, error in results] == [DataError] * 2


@COUNTS
@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("items", [[], [1], [1, 2, 3, 4, 5]])
def test_rounds_do_not_change_the_values(in_processes, count, items, at_once):
    results = in_processes(lambda: share_out(items, squares, at_once=at_once), count)

    assert results == [([item * item for item in items], None)] * count


def test_an_error_ends_the_others_after_their_round(in_processes):
    computed = []

    def compute(items):
        for value in failing_at(2)(items):
            computed.append(value)
            yield value

    def work():
        values, error = share_out(range(100), compute, at_once=2)
        return values, str(error), len(computed)

    # Process 0 has the items 0, 2, ..., and process 1 the items 1, 3, ...
    assert in_processes(work) == [
        ([0, 1], "item 2 in process 0", 1),
        ([0, 1], "item 2 in process 0", 2),
    ]


def test_an_error_after_the_last_value_is_told_in_the_last_round(in_processes):
    def compute(items):
        yield from items
        raise DataError("at the end")

    results = in_processes(lambda: share_out(range(4), compute, at_once=1))

    assert [(values, str(error)) for values, error in results] == [([0, 1, 2, 3], "at the end")] * 2


def test_too_few_values_of_a_round_are_a_bug():
    with pytest.raises(ValueError, match="item 2 of 3 has no value"):
        share_out([1, 2, 3], lambda items: items[:2], at_once=2)


def test_only_the_first_process_works_and_all_get_the_value(in_processes):
    def work():
        return rank(), num_processes()

    assert in_processes(lambda: on_first(work)) == [(0, 2)] * 2


def test_an_error_of_the_first_process_is_raised_in_all(in_processes):
    def work():
        raise ConfigError("wrong")

    results = in_processes(lambda: on_first(work))

    assert [type(error) for error in results] == [ConfigError] * 2
    assert [str(error) for error in results] == ["wrong"] * 2


def test_an_error_with_named_arguments_keeps_them(in_processes):
    def work():
        raise InterruptedRunError("stopped", exit_code=143)

    def code():
        try:
            on_first(work)
        except InterruptedRunError as error:
            return str(error), error.exit_code

    assert in_processes(code) == [("stopped", 143)] * 2


def test_tensors_arrive_whole_and_without_the_memory_around_them(in_processes):
    whole = torch.arange(1000.0).reshape(10, 100)

    def work():
        parts = on_first(lambda: [whole[:, 3], whole[0:0], torch.tensor([True]), torch.tensor(7)])
        parts[0][0] = -1  # what arrives can be written to
        return [part.tolist() for part in parts], parts[0].untyped_storage().nbytes()

    results = in_processes(work)

    expected = [[-1.0, *range(103, 1000, 100)], [], [True], 7]
    assert results[1] == (expected, 10 * 4)

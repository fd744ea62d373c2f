import pytest

from distildet.ops.processes import rank
from distildet.training.memory import more_micro_batches, why_not_more


@pytest.mark.parametrize(
    ("images", "micro_batches", "more"), [(6, 1, 2), (6, 2, 3), (6, 3, 6), (4, 1, 2), (5, 1, 5)]
)
def test_the_next_number_of_micro_batches_divides_the_batch(images, micro_batches, more):
    assert more_micro_batches(images, micro_batches) == more


@pytest.fixture
def frozen(student):
    student.train().freeze_batch_norm()
    return student


def test_one_process_with_frozen_batch_norm_may_split(frozen, batch_of):
    assert why_not_more(frozen, *batch_of(0), micro_batches=2) is None


def test_a_single_image_is_the_least(frozen, batch_of):
    reason = why_not_more(frozen, *batch_of(0), micro_batches=4)

    assert reason.startswith("1 images of 32x32 pixels with up to 1 boxes are too much. One image")
    assert reason.endswith("Images: 0-0, 0-1, 0-2, 0-3.")


def test_batch_norm_that_learns_is_not_given_smaller_batches(student, batch_of):
    assert "batch_norm: frozen" in why_not_more(student.train(), *batch_of(0), micro_batches=1)


def test_one_of_several_processes_does_not_split_alone(frozen, batch_of, in_processes):
    def work():
        batch, targets = batch_of(rank())
        return why_not_more(frozen, batch, targets, micro_batches=1)

    assert ["The other processes wait" in reason for reason in in_processes(work)] == [True, True]

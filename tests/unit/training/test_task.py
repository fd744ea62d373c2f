import pytest
import torch

from distildet.training.task import Task, backward, split_batch

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("parts", "sizes"),
    [(1, [5]), (2, [3, 2]), (4, [2, 2, 1]), (5, [1, 1, 1, 1, 1]), (9, [1, 1, 1, 1, 1])],
)
def test_micro_batches_are_equal_but_for_the_last(batch_of, parts, sizes):
    pieces = split_batch(*batch_of(0, images=5), parts)

    assert [len(piece) for piece, _ in pieces] == sizes
    assert [len(targets) for _, targets in pieces] == sizes


def test_micro_batches_hold_every_image_once_on_the_same_canvas(batch_of):
    batch, targets = batch_of(0, images=5)

    pieces = split_batch(batch, targets, 2)

    for name in ("pixels", "sizes", "image_sizes", "image_to_batch"):
        joined = torch.cat([getattr(piece, name) for piece, _ in pieces])
        assert joined.equal(getattr(batch, name))
    assert pieces[0][0].image_ids + pieces[1][0].image_ids == batch.image_ids
    assert tuple(pieces[0][1]) + tuple(pieces[1][1]) == targets


def test_the_total_is_the_sum_of_the_parts(student, batch_of):
    losses = Task(student)(*batch_of(0))

    assert losses.parts.keys() == {"classification", "box"}
    assert losses.total.item() == pytest.approx(sum(v.item() for v in losses.parts.values()))


@pytest.mark.parametrize("parts", [2, 4, 8])
def test_a_batch_of_8_equals_its_micro_batches_with_frozen_batch_norm(student, batch_of, parts):
    student.train().freeze_batch_norm()
    task = Task(student)
    # 3 of 8 images without a box, spread unevenly over the parts
    batch, targets = batch_of(0, images=8)
    targets = (targets[7], targets[7], *targets[2:])

    def gradients(number):
        task.zero_grad()
        losses = backward(task, batch, targets, parts=number, device=CPU)
        return losses, {n: p.grad.clone() for n, p in task.named_parameters() if p.requires_grad}

    whole_losses, whole = gradients(1)
    losses, accumulated = gradients(parts)

    torch.testing.assert_close(losses, whole_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(accumulated, whole, rtol=1e-3, atol=1e-6)


def test_a_batch_without_any_box_gives_every_trainable_weight_a_gradient(student, batch_of):
    batch, targets = batch_of(0)

    backward(Task(student.train()), batch, [targets[-1]] * 4, parts=1, device=CPU)

    assert [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None] == []

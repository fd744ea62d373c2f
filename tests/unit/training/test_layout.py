"""Weights and pixels lie in the memory layout of convolutions wherever a detector computes."""

import pytest
import torch
from torch import nn

from distildet.evaluation.detect_dataset import predictor

CHANNELS_LAST = torch.channels_last


def watch(detector):
    """Note of each convolution whether its input and its weights lie in the layout."""
    seen = []
    for module in detector.modules():
        # Maps of one cell or one channel lie in every layout.
        if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.register_forward_hook(
                lambda layer, args, result: seen.append(
                    (
                        args[0].is_contiguous(memory_format=CHANNELS_LAST),
                        layer.weight.is_contiguous(memory_format=CHANNELS_LAST),
                    )
                )
            )
    return seen


@pytest.mark.parametrize("accumulate", [1, 2])
def test_in_training_student_and_teacher_compute_in_it(trainer, distilling, accumulate):
    task = distilling()
    student, teacher = watch(task.student), watch(task.teacher)

    trainer(task=task, steps=1, accumulate=accumulate).run()

    assert set(student) == set(teacher) == {(True, True)}


def test_student_and_teacher_take_the_same_pixels(distilling, batch_of):
    # Brought into the layout once, on the way to the device.
    task, (batch, targets) = distilling(), batch_of(0)
    moved = batch.to(torch.device("cpu"))
    taken = []
    for detector in (task.student, task.teacher):
        detector.register_forward_pre_hook(lambda module, args: taken.append(args[0].pixels))

    task(moved, targets)

    assert [pixels.data_ptr() for pixels in taken] == [moved.pixels.data_ptr()] * 2


def test_labeling_and_evaluation_compute_in_it(student, batch_of):
    seen = watch(student)

    predictor(student, torch.device("cpu"))(batch_of(0)[0])

    assert set(seen) == {(True, True)}


def test_normalised_pixels_stay_in_it(student, batch_of):
    batch = batch_of(0)[0].to(torch.device("cpu"))

    assert student.normalise(batch).is_contiguous(memory_format=CHANNELS_LAST)

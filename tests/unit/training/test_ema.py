import pytest
import torch

from distildet.training.ema import Ema


def drift(student, generator):
    with torch.no_grad():
        for value in student.state_dict().values():
            value.add_(torch.ones_like(value) * torch.randint(1, 9, (), generator=generator))


@pytest.mark.parametrize("decay", [0.9, 0.15])
def test_the_average_follows_as_a_naive_loop_says(student, decay):
    ema = Ema(student, decay)
    generator = torch.Generator().manual_seed(0)
    name = "head.classification_head.cls_logits.weight"
    expected = student.state_dict()[name].clone()

    for step in range(4):
        drift(student, generator)
        ema.update(step)
        kept = min(decay, (1 + step) / (10 + step))
        expected = kept * expected + (1 - kept) * student.state_dict()[name]

    torch.testing.assert_close(ema.detector.state_dict()[name], expected)


def test_the_first_updates_keep_a_tenth_then_two_elevenths(student):
    name = "head.regression_head.bbox_reg.bias"
    bias = student.state_dict()[name]
    bias.fill_(0.0)
    ema = Ema(student, 0.9)

    bias.fill_(1.0)
    ema.update(0)  # 0.1 * 0 + 0.9 * 1
    first = ema.detector.state_dict()[name].clone()
    ema.update(1)  # 2/11 * 0.9 + 9/11 * 1 = 10.8/11

    torch.testing.assert_close(first, torch.full_like(bias, 0.9))
    torch.testing.assert_close(ema.detector.state_dict()[name], torch.full_like(bias, 10.8 / 11))


def test_decay_0_makes_the_average_the_student(student):
    ema = Ema(student, 0.0)
    drift(student, torch.Generator().manual_seed(0))

    ema.update(100)

    torch.testing.assert_close(ema.detector.state_dict(), student.state_dict(), rtol=0, atol=0)


def test_integer_buffers_are_copied(student):
    ema = Ema(student, 0.9)
    counts = [b for n, b in student.named_buffers() if n.endswith("num_batches_tracked")]
    for count in counts:
        count.fill_(7)

    ema.update(0)

    averaged = [b for n, b in ema.detector.named_buffers() if n.endswith("num_batches_tracked")]
    assert {int(count) for count in averaged} == {7}


def test_the_average_is_in_eval_mode_and_takes_no_gradient(student):
    ema = Ema(student.train(), 0.9)

    assert not ema.detector.training
    assert not any(parameter.requires_grad for parameter in ema.detector.parameters())
    assert student.training

import json
import math

import pytest
import torch

from distildet.training.loss_scale import LossScale

CPU = torch.device("cpu")


@pytest.fixture
def weight():
    return torch.nn.Parameter(torch.tensor([2.0]))


@pytest.fixture
def optimizer(weight):
    return torch.optim.SGD([weight], lr=0.1)


def overflow(scale, optimizer, weight):
    weight.grad = torch.tensor([math.inf])
    scale.unscale(optimizer)
    scale.update()


def test_gradients_come_back_as_without_the_scale(weight, optimizer):
    scale = LossScale(CPU, "fp16")

    scale.scaled((3 * weight).sum()).backward()
    during = weight.grad.item()
    scale.unscale(optimizer)

    assert during == 3 * 65536
    assert weight.grad.item() == 3


def test_the_scale_keeps_a_small_gradient_of_fp16(weight, optimizer):
    # 1e-9 is less than the smallest number of fp16, 6e-8; 1e-9 * 65536 is not.
    scale = LossScale(CPU, "fp16")

    scale.scaled((weight.half() * 1).float().sum() * 1e-9).backward()
    scale.unscale(optimizer)

    assert weight.grad.item() == pytest.approx(1e-9, rel=1e-3)


def test_an_overflow_halves_the_scale(weight, optimizer):
    scale = LossScale(CPU, "fp16")
    scale.scaled(weight.sum())

    overflow(scale, optimizer, weight)

    assert scale.value == 32768


def test_an_overflow_is_the_scales_matter_until_the_scale_is_below_1(weight, optimizer):
    scale = LossScale(CPU, "fp16")
    scale.scaled(weight.sum())
    blamed = []

    for _ in range(18):
        blamed.append((scale.value, scale.explains(loss_is_finite=True)))
        overflow(scale, optimizer, weight)

    # 65536 is 2 to the 16th: 17 steps until 1 is tried.
    assert blamed[0] == (65536, True)
    assert blamed[16] == (1, True)
    assert blamed[17] == (0.5, False)


def test_a_loss_that_is_not_finite_is_never_the_scales_matter():
    assert not LossScale(CPU, "fp16").explains(loss_is_finite=False)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_no_scale(weight, optimizer, precision):
    scale = LossScale(CPU, precision)

    scale.scaled(weight.sum()).backward()
    scale.unscale(optimizer)
    scale.update()

    assert weight.grad.item() == scale.value == 1
    assert scale.state() == {}
    assert not scale.explains(loss_is_finite=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_scale_goes_on_from_its_state_as_json(weight, optimizer, precision):
    before = LossScale(CPU, precision)
    before.scaled(weight.sum()).backward()
    before.unscale(optimizer)
    before.update()

    after = LossScale(CPU, precision)
    after.restore(json.loads(json.dumps(before.state())))

    assert after.state() == before.state()
    assert after.value == before.value

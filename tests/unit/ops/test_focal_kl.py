"""Oracles: values by hand, and autograd's numerical check of the gradient."""

import math

import pytest
import torch

from distildet.ops.focal_kl import focal_kl

# p = 3/4 from q = 1/2: KL = log(4/3) / 2 = 0.143841.
OWN, GUIDE = math.log(3), 0.0
KL = math.log(4 / 3) / 2


@pytest.mark.parametrize(
    ("is_object", "gamma", "weight"),
    [
        # p_t = 3/4 of an object, 1/4 elsewhere.
        (True, 2.0, (1 / 4) ** 2),
        (False, 2.0, (3 / 4) ** 2),
        (False, 0.0, 1.0),
    ],
)
def test_the_value_by_hand(is_object, gamma, weight):
    value = focal_kl(
        torch.tensor([OWN]), torch.tensor([GUIDE]), torch.tensor([is_object]), gamma=gamma
    )

    assert value.item() == pytest.approx(weight * KL, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_flows_through_the_weight_too(gamma):
    torch.manual_seed(0)
    logits = (2 * torch.randn(12, dtype=torch.float64)).requires_grad_()
    guide = 2 * torch.randn(12, dtype=torch.float64)
    is_object = torch.arange(12) % 2 == 0

    assert torch.autograd.gradcheck(
        lambda own: focal_kl(own, guide, is_object, gamma=gamma), logits
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_value_and_gradient_are_finite_at_the_extremes_and_at_equality(gamma):
    logits = torch.tensor([1e4, -1e4, 1e4, 0.0, 1e4, -1e4], requires_grad=True)
    guide = torch.tensor([-1e4, 1e4, 1e4, 0.0, 1e4, -1e4])
    is_object = torch.tensor([True, False, True, True, False, True])

    value = focal_kl(logits, guide, is_object, gamma=gamma)
    value.sum().backward()

    assert value.isfinite().all()
    assert (value >= 0).all()
    assert value[2:].tolist() == [0.0] * 4
    assert logits.grad.isfinite().all()


def test_the_teacher_gets_no_gradient():
    logits, guide = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)

    focal_kl(logits, guide, torch.tensor([True, False]), gamma=2.0).sum().backward()

    assert logits.grad.all()
    assert guide.grad is None

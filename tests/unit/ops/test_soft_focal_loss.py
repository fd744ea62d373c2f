"""Oracles: by hand, torchvision's focal loss at targets of 0 and 1, and autograd."""

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from distildet.ops.soft_focal_loss import soft_focal_loss


def loss_of(p, s):
    """The loss at probability p, in float64."""
    logit = torch.logit(torch.tensor(p, dtype=torch.float64))
    return soft_focal_loss(logit, torch.tensor(s, dtype=torch.float64)).item()


@pytest.mark.parametrize(
    ("p", "s", "expected"),
    [
        (0.5, 1.0, 0.25 * 0.25 * math.log(2)),
        (0.5, 0.0, 0.75 * 0.25 * math.log(2)),
        # w = 0.25 * 0.8 + 0.75 * 0.2 = 0.35, (0.8 - 0.5)^2 = 0.09, BCE = log 2
        (0.5, 0.8, 0.35 * 0.09 * math.log(2)),
        # w = 0.5, (0.5 - 0.2)^2 = 0.09, BCE = -(log 0.2 + log 0.8) / 2
        (0.2, 0.5, 0.5 * 0.09 * -(math.log(0.2) + math.log(0.8)) / 2),
        (0.3, 0.3, 0.0),
    ],
)
def test_values_by_hand(p, s, expected):
    assert loss_of(p, s) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("wanted", [0.0, 1.0])
def test_at_targets_of_zero_and_one_it_is_the_focal_loss(wanted):
    logits = torch.linspace(-12, 12, 97, dtype=torch.float64)
    targets = torch.full_like(logits, wanted)

    torch.testing.assert_close(
        soft_focal_loss(logits, targets), sigmoid_focal_loss(logits, targets), rtol=1e-8, atol=0
    )


def test_at_a_target_of_one_it_is_the_focal_loss_to_the_last_bit():
    logits = torch.linspace(-12, 12, 97)
    targets = torch.ones_like(logits)

    assert torch.equal(soft_focal_loss(logits, targets), sigmoid_focal_loss(logits, targets))


@pytest.mark.parametrize("s", [0.05, 0.3, 0.5, 0.77, 0.95])
def test_it_is_least_where_the_probability_is_the_target(s):
    p = torch.arange(1, 10_000, dtype=torch.float64) / 10_000

    values = soft_focal_loss(torch.logit(p), torch.full_like(p, s))

    assert p[values.argmin()].item() == pytest.approx(s, abs=1e-9)
    assert (values >= 0).all()


@pytest.mark.parametrize("s", [0.0, 0.2, 0.6, 1.0])
def test_its_gradient_is_the_documented_one_and_leads_to_the_target(s):
    logits = torch.linspace(-6, 6, 41, dtype=torch.float64, requires_grad=True)
    scores = torch.full_like(logits, s)

    soft_focal_loss(logits, scores).sum().backward()

    p = logits.detach().sigmoid()
    entropy = -s * p.log() - (1 - s) * (1 - p).log()
    weight = 0.25 * s + 0.75 * (1 - s)
    expected = weight * (p - s) * ((p - s) ** 2 + 2 * p * (1 - p) * entropy)
    torch.testing.assert_close(logits.grad, expected)
    assert torch.equal(logits.grad.sign(), (p - s).sign())


@pytest.mark.parametrize("s", [0.0, 0.4, 1.0])
def test_extreme_logits_have_finite_values_and_gradients(s):
    logits = torch.tensor([-1e4, -100.0, 100.0, 1e4], requires_grad=True)

    values = soft_focal_loss(logits, torch.full((4,), s))
    values.sum().backward()

    assert values.isfinite().all()
    assert logits.grad.isfinite().all()

"""Oracles: values by hand, a loop over regions and columns, the sums of dense heads, gradcheck."""

import math

import pytest
import torch

from distildet.ops.adaptive_region_sum import adaptive_region_sum
from distildet.ops.adaptive_sums import adaptive_sums

FORMS = ["paper", "official"]
DEFAULTS = {"form": "paper", "beta": 1.0, "gamma": 2.0}
EXTREME = torch.tensor([-1e4, -200.0, -20.0, 0.0, 3.0, 60.0, 1e4])


def summed(logits, teacher_logits, **options):
    return adaptive_region_sum(logits, teacher_logits, **{**DEFAULTS, **options})


def softmax(logits):
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def naive(student, teacher, *, form, beta, gamma):
    """The sum, region after region, from probabilities."""
    value = 0.0
    for own, guide in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(own), softmax(guide)
        kl = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        entropy = -sum(b * math.log(b) for b in q) / math.log(len(q)) * math.log(2)
        weight = (1 - math.exp(-(kl + beta * entropy))) ** gamma
        value += weight * (kl if form == "paper" else (kl + entropy) / 2)
    return value


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # q = 1/3 each: T = log 2. p = 1/2, 1/4, 1/4: KL = 1/3 (log 2/3 + 2 log 4/3) = 0.0566330;
        # exp(-(KL + T)) = 0.472470; weight 0.527530 ** 2 = 0.278288.
        ("paper", 0.278288 * 0.0566330),
        ("official", 0.278288 * (0.0566330 + 0.693147) / 2),
    ],
)
def test_the_sum_by_hand(form, expected):
    student = torch.tensor([[math.log(2), 0.0, 0.0]] * 5)

    value = summed(student, torch.zeros(5, 3), form=form)

    assert value.item() == pytest.approx(5 * expected, rel=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"beta": 1.0, "gamma": 2.0},
        {"beta": 0.0, "gamma": 0.5},
        {"beta": 0.5, "gamma": 0.0},
        {"beta": 1.5, "gamma": 3.0},
    ],
)
def test_the_sum_equals_a_loop_over_regions(form, options):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 9, 4, dtype=torch.float64)

    found = summed(student, teacher, form=form, **options)

    expected = naive(student, teacher, form=form, **options)
    assert found.item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_of_one_class_the_sum_is_that_of_a_yes_or_no_prediction(form):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 9, 2, dtype=torch.float64)
    options = {**DEFAULTS, "form": form}

    found = adaptive_region_sum(student, teacher, **options)

    yes, guide = ((one[:, 1] - one[:, 0])[None, :, None] for one in (student, teacher))
    part = torch.ones(1, 9, dtype=torch.bool)
    expected, _ = adaptive_sums(yes, guide, part, theta=1.8, **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_equals_finite_differences(form, beta, gamma):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 3, dtype=torch.float64)

    def value(logits):
        return summed(logits, teacher, form=form, beta=beta, gamma=gamma)

    assert torch.autograd.gradcheck(value, student.requires_grad_())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01, 0.001])
def test_float32_keeps_six_digits_where_both_nearly_agree(form, beta, noise):
    torch.manual_seed(0)
    teacher = 2 * torch.randn(2000, 21)
    student = (teacher + noise * torch.randn(2000, 21)).requires_grad_()

    value = summed(student, teacher, form=form, beta=beta)
    value.backward()

    own, guide = student.detach().double().log_softmax(1), teacher.double().log_softmax(1)
    kl = (guide.exp() * (guide - own)).sum(1)
    entropy = -(guide.exp() * guide).sum(1) / math.log(21) * math.log(2)
    inner = kl if form == "paper" else (kl + entropy) / 2
    hardness = -torch.expm1(-(kl + beta * entropy))
    slope = 2 * hardness * (1 - hardness) * inner + hardness**2 * (1 if form == "paper" else 0.5)
    gradient = (own.exp() - guide.exp()) * slope[:, None]
    assert value.item() == pytest.approx((hardness**2 * inner).sum().item(), rel=1e-6)
    assert ((student.grad - gradient).abs().max() / gradient.abs().max()).item() <= 2e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_value_and_gradient_are_finite_for_extreme_logits(form, gamma, dtype):
    student, teacher = (
        one.flatten().to(dtype)
        for one in torch.meshgrid(EXTREME, EXTREME, indexing="ij")  # every pair
    )
    student = torch.stack([student, torch.zeros_like(student), -student], dim=1).requires_grad_()
    teacher = torch.stack([torch.zeros_like(teacher), teacher, teacher], dim=1)

    value = summed(student, teacher, form=form, gamma=gamma)
    value.backward()

    assert value.dtype == torch.float32
    assert value.isfinite()
    assert student.grad.isfinite().all()


def test_where_both_are_equal_the_value_is_0_and_so_is_the_gradient():
    torch.manual_seed(0)
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)

    value = summed(student, student.detach())
    value.backward()

    assert value.item() == pytest.approx(0, abs=1e-15)
    assert student.grad.abs().max() < 1e-15


def test_the_sum_of_nothing_is_0_with_a_graph():
    student = torch.zeros(0, 3, requires_grad=True)

    value = summed(student, torch.zeros(0, 3))
    value.backward()

    assert value.item() == 0


def test_the_teacher_gets_no_gradient():
    student, teacher = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    teacher_logits = teacher * torch.tensor([1.0, 2.0, 3.0])

    value = summed(student, teacher_logits)
    value.backward()

    assert student.grad.any()
    assert teacher.grad is None

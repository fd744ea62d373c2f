"""Oracles: values by hand, a loop over regions and columns, the sums of dense heads, gradcheck."""

import math

import pytest
import torch

from distildet.ops.adaptive_region_sums import adaptive_region_sums
from distildet.ops.adaptive_sums import adaptive_sums

FORMS = ["paper", "official"]
DEFAULTS = {"form": "paper", "beta": 1.0, "gamma": 2.0, "theta": 1.8}
EXTREME = torch.tensor([-1e4, -200.0, -20.0, 0.0, 3.0, 60.0, 1e4])


def sums(logits, teacher_logits, **options):
    return adaptive_region_sums(logits, teacher_logits, **{**DEFAULTS, **options})


def softmax(logits):
    total = sum(math.exp(logit) for logit in logits)
    return [math.exp(logit) / total for logit in logits]


def naive(student, teacher, *, form, beta, gamma, theta):
    """Value and mass, region after region, from probabilities."""
    value = mass = 0.0
    for own, guide in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax(own), softmax(guide)
        kl = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
        entropy = -sum(b * math.log(b) for b in q) / math.log(len(q)) * math.log(2)
        weight = (1 - math.exp(-(kl + beta * entropy))) ** gamma
        value += weight * (kl if form == "paper" else (kl + entropy) / 2)
        mass += (1 - q[0]) ** theta
    return value, mass


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # q = 1/3 each: T = log 2. p = 1/2, 1/4, 1/4: KL = 1/3 (log 2/3 + 2 log 4/3) = 0.0566330;
        # exp(-(KL + T)) = 0.472470; weight 0.527530 ** 2 = 0.278288.
        ("paper", 0.278288 * 0.0566330),
        ("official", 0.278288 * (0.0566330 + 0.693147) / 2),
    ],
)
def test_the_sums_by_hand(form, expected):
    student = torch.tensor([[math.log(2), 0.0, 0.0]] * 5)

    value, mass = sums(student, torch.zeros(5, 3), form=form, theta=2.0)

    assert value.item() == pytest.approx(5 * expected, rel=1e-5)
    assert mass.item() == pytest.approx(5 * 4 / 9)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "options",
    [
        {"beta": 1.0, "gamma": 2.0, "theta": 1.8},
        {"beta": 0.0, "gamma": 0.5, "theta": 1.0},
        {"beta": 0.5, "gamma": 0.0, "theta": 0.0},
        {"beta": 1.5, "gamma": 3.0, "theta": 2.2},
    ],
)
def test_the_sums_equal_a_loop_over_regions(form, options):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 9, 4, dtype=torch.float64)

    found = sums(student, teacher, form=form, **options)

    expected = naive(student, teacher, form=form, **options)
    assert [one.item() for one in found] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_of_one_class_the_sums_are_those_of_a_yes_or_no_prediction(form):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 9, 2, dtype=torch.float64)
    options = {**DEFAULTS, "form": form}

    found = adaptive_region_sums(student, teacher, **options)

    yes, guide = ((one[:, 1] - one[:, 0])[None, :, None] for one in (student, teacher))
    expected = adaptive_sums(yes, guide, torch.ones(1, 9, dtype=torch.bool), **options)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_equals_finite_differences(form, beta, gamma):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 3, dtype=torch.float64)

    def value(logits):
        return sums(logits, teacher, form=form, beta=beta, gamma=gamma)[0]

    assert torch.autograd.gradcheck(value, student.requires_grad_())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("noise", [1.0, 0.1, 0.01, 0.001])
def test_float32_keeps_six_digits_where_both_nearly_agree(form, beta, noise):
    torch.manual_seed(0)
    teacher = 2 * torch.randn(2000, 21)
    student = (teacher + noise * torch.randn(2000, 21)).requires_grad_()

    value, _ = sums(student, teacher, form=form, beta=beta)
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

    value, mass = sums(student, teacher, form=form, gamma=gamma)
    value.backward()

    assert value.dtype == mass.dtype == torch.float32
    assert value.isfinite()
    assert mass.isfinite()
    assert student.grad.isfinite().all()


def test_where_both_are_equal_the_value_is_0_and_so_is_the_gradient():
    torch.manual_seed(0)
    student = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)

    value, _ = sums(student, student.detach())
    value.backward()

    assert value.item() == pytest.approx(0, abs=1e-15)
    assert student.grad.abs().max() < 1e-15


def test_a_teacher_that_hardly_sees_anything_has_a_mass_that_is_not_lost():
    # 1 - q of background is 2e-9, which 1 - 0.999999998 in float32 is not.
    teacher = torch.tensor([[0.0, math.log(1e-9), math.log(1e-9)]])

    _, mass = sums(teacher, teacher, theta=1.0)

    assert mass.item() == pytest.approx(2e-9, rel=1e-5)


def test_the_sums_of_nothing_are_0_with_a_graph():
    student = torch.zeros(0, 3, requires_grad=True)

    value, mass = sums(student, torch.zeros(0, 3))
    value.backward()

    assert (value.item(), mass.item()) == (0, 0)


def test_the_teacher_gets_no_gradient_and_the_mass_gives_none():
    student, teacher = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    teacher_logits = teacher * torch.tensor([1.0, 2.0, 3.0])

    value, mass = sums(student, teacher_logits)
    value.backward()

    assert student.grad.any()
    assert teacher.grad is None
    assert not mass.requires_grad

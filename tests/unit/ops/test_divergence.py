"""Oracles: values by hand, formulas over probabilities in float64, finite differences."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli

from distildet.ops.divergence import binary_kl, softmax_entropy, softmax_kl

LOGITS = st.floats(-12, 12)
EXTREME = torch.tensor([-1e4, -200.0, -90.0, -20.0, -1.0, 0.0, 3.0, 17.0, 60.0, 1e4])


def probability(logit):
    return 1 / (1 + math.exp(-logit))


def naive_entropy(q):
    return -(q * math.log(q) + (1 - q) * math.log(1 - q))


def naive_kl(p, q):
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


@pytest.mark.parametrize("noise", [1.0, 0.3, 0.1, 0.01, 0.001])
def test_float32_keeps_six_digits_where_both_nearly_agree(noise):
    torch.manual_seed(0)
    teacher = 2 * torch.randn(100_000) - 2
    student = (teacher + noise * torch.randn(100_000)).requires_grad_()

    value = binary_kl(student, teacher)
    value.sum().backward()

    # q x = q (exp(d) - 1) of the side that is not likely, in float64: the gap d is not lost.
    mirror = torch.where(teacher > 0, -1.0, 1.0).double()
    gap = (student.detach().double() - teacher.double()) * mirror
    q = (teacher.double() * mirror).sigmoid()
    more = q * torch.expm1(gap)
    exact = torch.log1p(more) - q * gap
    exact_gradient = (1 - q) * more / (1 + more) * mirror
    assert value.double().sum().item() == pytest.approx(exact.sum().item(), rel=1e-6)
    error = (student.grad - exact_gradient).abs().max() / exact_gradient.abs().max()
    assert error.item() <= 1e-6


@pytest.mark.parametrize("divergence", [binary_kl, softmax_kl])
def test_a_gradient_of_the_gradient_is_refused(divergence):
    student = torch.randn(4, 3, requires_grad=True)
    value = divergence(student, torch.randn(4, 3)).sum()

    with pytest.raises(RuntimeError, match=r"no gradient of its own\. Found create_graph=True"):
        torch.autograd.grad(value, student, create_graph=True)


def test_the_divergence_by_hand():
    # p = 3/4, q = 1/2: 1/2 log 2/3 + 1/2 log 2 = 1/2 log 4/3 = 0.143841.
    # p = 1/2, q = 3/4: log 2 - 0.562335 = 0.130812.
    values = torch.tensor([0.0, math.log(3)])

    assert binary_kl(values.flip(0), values).tolist() == pytest.approx(
        [0.143841, 0.130812], rel=1e-5
    )


@given(student=LOGITS, teacher=LOGITS)
def test_the_divergence_equals_its_formula_over_probabilities(student, teacher):
    value = binary_kl(*torch.tensor([student, teacher], dtype=torch.float64))

    expected = naive_kl(probability(student), probability(teacher))
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_the_divergence_is_0_where_both_are_equal():
    assert not binary_kl(EXTREME, EXTREME.clone()).any()


def test_a_divergence_lost_in_rounding_still_has_a_gradient():
    # p - q = 1e-4 / 4: its square, 1e-9, is below what float32 can tell from 0 in log 2.
    logit = torch.full((1000,), 1e-4).requires_grad_()

    value = binary_kl(logit, torch.linspace(-1e-6, 1e-6, 1000))
    value.sum().backward()

    assert (value >= 0).all()
    assert torch.allclose(logit.grad, torch.full((1000,), 2.5e-5), rtol=0.05)


def test_the_gradient_equals_finite_differences():
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 5, dtype=torch.float64)

    assert torch.autograd.gradcheck(
        lambda logits: binary_kl(logits, teacher), student.requires_grad_()
    )


def test_value_and_gradient_are_finite_everywhere():
    student, teacher = torch.meshgrid(EXTREME, EXTREME, indexing="ij")
    student = student.clone().requires_grad_()

    value = binary_kl(student, teacher)
    value.sum().backward()

    assert value.isfinite().all()
    assert (value >= 0).all()
    assert student.grad.isfinite().all()


def test_the_teacher_gets_no_gradient():
    student, teacher = torch.zeros(2, 3).requires_grad_().unbind()
    student.retain_grad()
    teacher.retain_grad()

    binary_kl(student + 1, teacher).sum().backward()

    assert student.grad.all()
    assert teacher.grad is None


# Choices between several columns


def test_the_entropy_of_choices_by_hand():
    # Of 1/2, 1/4, 1/4: 3/2 log 2, of at most log 3; certain; of four equal ones the most.
    logits = torch.tensor([[math.log(2), 0.0, 0.0], [1e4, 0.0, -1e4]])

    assert softmax_entropy(logits).tolist() == pytest.approx([1.039721 / 1.098612 * 0.693147, 0.0])
    assert softmax_entropy(torch.zeros(1, 4)).item() == pytest.approx(0.693147)


def test_the_divergence_of_choices_by_hand():
    # p = 1/2, 1/4, 1/4, q = 1/3 each: 1/3 (log 2/3 + 2 log 4/3) = 0.056633; the other way round
    # 1/2 log 3/2 + 1/2 log 3/4 = 0.058892.
    one, other = torch.tensor([[math.log(2), 0.0, 0.0]]), torch.zeros(1, 3)

    assert softmax_kl(one, other).item() == pytest.approx(0.056633, rel=1e-4)
    assert softmax_kl(other, one).item() == pytest.approx(0.058892, rel=1e-4)


@given(student=LOGITS, teacher=LOGITS)
def test_choices_between_two_are_yes_or_no(student, teacher):
    own, guide = torch.tensor([[[0.0, student]], [[0.0, teacher]]], dtype=torch.float64)

    torch.testing.assert_close(softmax_kl(own, guide), binary_kl(own, guide)[:, 1])
    torch.testing.assert_close(softmax_entropy(guide), Bernoulli(logits=guide[:, 1]).entropy())


def test_the_divergence_of_choices_equals_torchs():
    torch.manual_seed(0)
    own, guide = 3 * torch.randn(2, 20, 5, dtype=torch.float64)

    expected = torch.nn.functional.kl_div(
        own.log_softmax(1), guide.log_softmax(1), reduction="none", log_target=True
    )

    torch.testing.assert_close(softmax_kl(own, guide), expected.sum(1))


@pytest.mark.parametrize("shift", [0.0, 7.3])
@pytest.mark.parametrize("noise", [1.0, 0.3, 0.1, 0.01, 0.001])
def test_float32_keeps_six_digits_where_both_nearly_choose_the_same(noise, shift):
    torch.manual_seed(0)
    teacher = 2 * torch.randn(2000, 21)
    student = (teacher + noise * torch.randn(2000, 21) + shift).requires_grad_()

    value = softmax_kl(student, teacher)
    value.sum().backward()

    own, guide = student.detach().double().log_softmax(1), teacher.double().log_softmax(1)
    exact, exact_gradient = (guide.exp() * (guide - own)).sum(), own.exp() - guide.exp()
    assert value.double().sum().item() == pytest.approx(exact.item(), rel=1e-6)
    error = (student.grad - exact_gradient).abs().max() / exact_gradient.abs().max()
    assert error.item() <= 1e-6


def test_a_divergence_of_choices_lost_in_rounding_is_not_negative_and_has_a_gradient():
    torch.manual_seed(0)
    guide = torch.randn(1000, 5)
    logits = (guide + 1e-4 * torch.randn(1000, 5)).requires_grad_()

    value = softmax_kl(logits, guide)
    value.sum().backward()

    assert value.min() >= 0
    assert logits.grad.any(1).all()


def test_choices_of_extreme_logits_are_finite():
    torch.manual_seed(0)
    own, guide = torch.randn(2, 100, 4).sign() * 1e4
    own.requires_grad_()

    value = softmax_kl(own, guide)
    value.sum().backward()

    assert value.isfinite().all()
    assert own.grad.isfinite().all()
    assert softmax_entropy(guide).isfinite().all()


def test_the_divergence_of_choices_gives_the_teacher_no_gradient():
    own, guide = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)

    softmax_kl(own, guide).sum().backward()

    assert guide.grad is None

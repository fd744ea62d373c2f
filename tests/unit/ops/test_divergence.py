"""Oracles: values by hand, formulas over probabilities in float64, closed forms of gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distildet.ops.divergence import adaptive_divergence, binary_entropy, binary_kl

FORMS = ["paper", "official"]
LOGITS = st.floats(-12, 12)
EXTREME = torch.tensor([-1e4, -200.0, -90.0, -20.0, -1.0, 0.0, 3.0, 17.0, 60.0, 1e4])


def probability(logit):
    return 1 / (1 + math.exp(-logit))


def naive_entropy(q):
    return -(q * math.log(q) + (1 - q) * math.log(1 - q))


def naive_kl(p, q):
    return q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))


def adaptive_gradient(p, q, form, beta, gamma):
    """The closed form of the derivative by the student's logit."""
    kl, entropy = naive_kl(p, q), naive_entropy(q)
    e = math.exp(-(kl + beta * entropy))
    weight, slope = (1 - e) ** gamma, gamma * (1 - e) ** (gamma - 1) * e
    if form == "paper":
        return (p - q) * (slope * kl + weight)
    # alpha = 1/2: gamma (1-e)^(gamma-1) e (q-p) S - A (q-p) / 2, S = -(cross-entropy) / 2.
    cross_entropy = -(q * math.log(p) + (1 - q) * math.log(1 - p))
    return slope * (q - p) * -0.5 * cross_entropy - weight * 0.5 * (q - p)


def of_all_pairs(students, teachers, **options):
    student, teacher = torch.meshgrid(students, teachers, indexing="ij")
    student = student.clone().requires_grad_()
    value = adaptive_divergence(student, teacher, **options)
    value.sum().backward()
    return value.detach(), student.grad


def test_the_entropy_by_hand():
    # q = 1/2: log 2. q = 3/4 (logit log 3): -(3/4 log 3/4 + 1/4 log 1/4) = 0.562335.
    entropy = binary_entropy(torch.tensor([0.0, math.log(3)]))

    assert entropy.tolist() == pytest.approx([0.693147, 0.562335], rel=1e-5)


def test_the_divergence_by_hand():
    # p = 3/4, q = 1/2: 1/2 log 2/3 + 1/2 log 2 = 1/2 log 4/3 = 0.143841.
    # p = 1/2, q = 3/4: log 2 - 0.562335 = 0.130812.
    values = torch.tensor([0.0, math.log(3)])

    assert binary_kl(values.flip(0), values).tolist() == pytest.approx(
        [0.143841, 0.130812], rel=1e-5
    )


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # exp(-(1/2 log 4/3 + log 2)) = sqrt(3) / 4 = 0.433013; weight 0.566987 ** 2 = 0.321475.
        ("paper", 0.321475 * 0.143841),
        ("official", 0.321475 * (0.143841 + 0.693147) / 2),
    ],
)
def test_the_adaptive_divergence_by_hand(form, expected):
    value = adaptive_divergence(
        torch.tensor(math.log(3)), torch.tensor(0.0), form=form, beta=1.0, gamma=2.0
    )

    assert value.item() == pytest.approx(expected, rel=1e-5)


@given(student=LOGITS, teacher=LOGITS)
def test_the_divergence_equals_its_formula_over_probabilities(student, teacher):
    value = binary_kl(*torch.tensor([student, teacher], dtype=torch.float64))

    expected = naive_kl(probability(student), probability(teacher))
    assert value.item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(
    student=LOGITS,
    teacher=LOGITS,
    form=st.sampled_from(FORMS),
    beta=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    gamma=st.sampled_from([1.0, 2.0, 3.0]),
)
def test_the_gradient_equals_its_closed_form(student, teacher, form, beta, gamma):
    logit = torch.tensor(student, dtype=torch.float64, requires_grad=True)
    guide = torch.tensor(teacher, dtype=torch.float64)

    adaptive_divergence(logit, guide, form=form, beta=beta, gamma=gamma).backward()

    expected = adaptive_gradient(probability(student), probability(teacher), form, beta, gamma)
    assert logit.grad.item() == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_the_gradient_equals_finite_differences(form, beta, gamma):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 4, 5, dtype=torch.float64)

    def value(logits):
        return adaptive_divergence(logits, teacher, form=form, beta=beta, gamma=gamma)

    assert torch.autograd.gradcheck(value, student.requires_grad_())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_value_and_gradient_are_finite_everywhere(form, beta, gamma):
    value, gradient = of_all_pairs(EXTREME, EXTREME, form=form, beta=beta, gamma=gamma)

    assert value.isfinite().all()
    assert (value >= 0).all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_float32_keeps_the_digits_of_predictions_that_are_nearly_certain(form):
    options = {"form": form, "beta": 1.0, "gamma": 2.0}
    # No pair is equal: there the gradient is 0 but for rounding.
    students = torch.tensor([-20.0, -16.5, -9.0, 4.0, 15.7, 20.3])
    teachers = students + 0.7

    value, gradient = of_all_pairs(students, teachers, **options)
    exact_value, exact_gradient = of_all_pairs(students.double(), teachers.double(), **options)

    assert torch.allclose(value.double(), exact_value, rtol=1e-4, atol=0)
    assert torch.allclose(gradient.double(), exact_gradient, rtol=1e-4, atol=0)


def test_the_divergence_is_0_where_both_are_equal():
    assert not binary_kl(EXTREME, EXTREME.clone()).any()


def test_a_divergence_lost_in_rounding_still_has_a_gradient():
    # p - q = 1e-4 / 4: its square, 1e-9, is below what float32 can tell from 0 in log 2.
    logit = torch.full((1000,), 1e-4).requires_grad_()

    value = binary_kl(logit, torch.linspace(-1e-6, 1e-6, 1000))
    value.sum().backward()

    assert (value >= 0).all()
    assert torch.allclose(logit.grad, torch.full((1000,), 2.5e-5), rtol=0.05)


@pytest.mark.parametrize(
    ("teacher", "student", "weight"),
    [
        # Certain background and agreement; a miss; the teacher in doubt, then also disagreement.
        (0.001, 0.001, 6e-5),
        (0.001, 0.05, 0.0028),
        (0.5, 0.5, 0.25),
        (0.5, 0.1, 0.49),
        (0.9, 0.5, 0.25),
    ],
)
def test_the_weight_grows_with_doubt_and_disagreement(teacher, student, weight):
    student, teacher = torch.tensor([student, teacher]).logit()
    # The form "official" is the weight times half of the cross-entropy.
    half = (binary_kl(student, teacher) + binary_entropy(teacher)) / 2

    value = adaptive_divergence(student, teacher, form="official", beta=1.0, gamma=2.0)

    assert (value / half).item() == pytest.approx(weight, rel=0.06)


def test_gamma_0_leaves_the_weight_out():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 50)

    value = adaptive_divergence(student, teacher, form="paper", beta=1.0, gamma=0.0)

    assert value.equal(binary_kl(student, teacher))


@pytest.mark.parametrize("form", FORMS)
def test_the_teacher_gets_no_gradient(form):
    student, teacher = torch.zeros(2, 3, requires_grad=True)
    student.retain_grad()
    teacher.retain_grad()

    adaptive_divergence(student + 1, teacher, form=form, beta=1.0, gamma=2.0).sum().backward()

    assert student.grad.all()
    assert teacher.grad is None


def test_nothing_has_no_divergence():
    empty = torch.zeros(2, 0, 3)

    value = adaptive_divergence(empty, empty, form="paper", beta=1.0, gamma=2.0)

    assert value.shape == (2, 0, 3)

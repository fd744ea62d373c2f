"""Oracles: values by hand, closed forms in float64, finite differences, live memory."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Bernoulli, kl_divergence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from distildet.ops.adaptive_sums import adaptive_sums

FORMS = ["paper", "official"]
LOGITS = st.floats(-12, 12)
EXTREME = torch.tensor([-1e4, -200.0, -90.0, -20.0, -1.0, 0.0, 3.0, 17.0, 60.0, 1e4])
DEFAULTS = {"form": "paper", "beta": 1.0, "gamma": 2.0, "theta": 1.8}


class LiveMemory(TorchDispatchMode):
    """Adds up the storages that tensor operations make inside the block, while they live."""

    def __init__(self):
        super().__init__()
        self.live = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tensors(args, kwargs)}
        made = [leaf.untyped_storage() for leaf in tensors(result)]
        self.live.update({one: one.nbytes() for one in made if one.data_ptr() not in given})
        self.peak = max(self.peak, sum(self.live.values()))
        return result


def tensors(*values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def all_of(logits):
    return torch.ones(logits.shape[:2], dtype=torch.bool)


def sums(logits, teacher_logits, takes_part=None, **options):
    takes_part = all_of(logits) if takes_part is None else takes_part
    return adaptive_sums(logits, teacher_logits, takes_part, **{**DEFAULTS, **options})


def divergence_and_entropy(student, teacher):
    """As PyTorch's distributions have them."""
    guide = Bernoulli(logits=teacher)
    return kl_divergence(guide, Bernoulli(logits=student)), guide.entropy()


def reference(logits, teacher_logits, takes_part, *, form, beta, gamma, theta):
    """Value, mass and gradient from the formulas, all elements at once, in float64."""
    s, t = logits.detach().double(), teacher_logits.double()
    kl, entropy = divergence_and_entropy(s, t)
    inner = kl if form == "paper" else (kl + entropy) / 2
    hardness = -torch.expm1(-(kl + beta * entropy))
    slope = gamma * hardness ** (gamma - 1) * torch.exp(-(kl + beta * entropy)) * inner
    own = hardness**gamma * (1 if form == "paper" else 0.5)
    part = takes_part[:, :, None]
    gradient = (s.sigmoid() - t.sigmoid()) * (slope + own) * part
    value = (hardness**gamma * inner * part).sum()
    return value, (t.sigmoid() ** theta * part).sum(), gradient


def exact_divergence(student, teacher):
    """KL and p - q of float64 logits that are near each other: x = exp(d) - 1 keeps their gap."""
    mirror = torch.where(teacher > 0, -1.0, 1.0)
    gap, q = (student - teacher) * mirror, (teacher * mirror).sigmoid()
    x = torch.expm1(gap)
    return torch.log1p(q * x) - q * gap, q * (1 - q) * x / (1 + q * x) * mirror


def single(student, teacher, **options):
    """Value and derivative of one prediction in float64."""
    logit = torch.tensor([[[student]]], dtype=torch.float64, requires_grad=True)
    value, _ = sums(logit, torch.tensor([[[teacher]]], dtype=torch.float64), **options)
    value.backward()
    return value.item(), logit.grad.item()


def naive(student, teacher, *, form, beta, gamma):
    """Value and derivative of one prediction, from probabilities."""
    p, q = 1 / (1 + math.exp(-student)), 1 / (1 + math.exp(-teacher))
    kl = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    entropy = -(q * math.log(q) + (1 - q) * math.log(1 - q))
    e = math.exp(-(kl + beta * entropy))
    weight, slope = (1 - e) ** gamma, gamma * (1 - e) ** (gamma - 1) * e
    if form == "paper":
        return weight * kl, (p - q) * (slope * kl + weight)
    # alpha = 1/2: gamma (1-e)^(gamma-1) e (q-p) S - A (q-p) / 2, S = -(cross-entropy) / 2.
    half = -(q * math.log(p) + (1 - q) * math.log(1 - p)) / 2
    return weight * half, slope * (q - p) * -half - weight * 0.5 * (q - p)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        # p = 3/4, q = 1/2: KL = 1/2 log 4/3 = 0.143841, T = log 2; exp(-(KL + T)) = sqrt(3) / 4
        # = 0.433013; weight 0.566987 ** 2 = 0.321475.
        ("paper", 0.321475 * 0.143841),
        ("official", 0.321475 * (0.143841 + 0.693147) / 2),
    ],
)
def test_the_sums_by_hand(form, expected):
    student, teacher = torch.full((2, 3, 1), math.log(3)), torch.zeros(2, 3, 1)

    value, mass = sums(student, teacher, form=form, theta=2.0)

    assert value.item() == pytest.approx(6 * expected, rel=1e-5)
    assert mass.item() == pytest.approx(6 / 4)


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
    student, teacher = torch.tensor([student, teacher]).logit().reshape(2, 1, 1, 1)
    # The form "official" is the weight times half of the cross-entropy.
    half = sum(divergence_and_entropy(student, teacher)) / 2

    value, _ = sums(student, teacher, form="official")

    assert (value / half).item() == pytest.approx(weight, rel=0.06)


@given(
    student=LOGITS,
    teacher=LOGITS,
    form=st.sampled_from(FORMS),
    beta=st.sampled_from([0.0, 0.5, 1.0, 1.5]),
    gamma=st.sampled_from([1.0, 2.0, 2.5, 3.0]),
)
def test_value_and_gradient_equal_their_closed_forms(student, teacher, form, beta, gamma):
    found = single(student, teacher, form=form, beta=beta, gamma=gamma)

    expected = naive(student, teacher, form=form, beta=beta, gamma=gamma)
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_the_gradient_equals_finite_differences(form, beta, gamma):
    torch.manual_seed(0)
    student, teacher = 3 * torch.randn(2, 2, 3, 4, dtype=torch.float64)
    takes_part = torch.tensor([[True, False, True], [True, True, True]])

    def value(logits):
        return sums(logits, teacher, takes_part, form=form, beta=beta, gamma=gamma)[0]

    assert torch.autograd.gradcheck(value, student.requires_grad_())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize(("scale", "mean"), [(1.0, 0.0), (3.0, -4.0), (8.0, 0.0)])
def test_float32_keeps_six_digits_of_sums_and_gradient(form, gamma, scale, mean):
    torch.manual_seed(0)
    student, teacher = scale * torch.randn(2, 2, 3000, 20) + mean
    takes_part = torch.rand(2, 3000) > 0.2
    options = {**DEFAULTS, "form": form, "gamma": gamma}

    value, mass = sums(student.requires_grad_(), teacher, takes_part, **options)
    value.backward()

    exact_value, exact_mass, exact_gradient = reference(student, teacher, takes_part, **options)
    assert value.item() == pytest.approx(exact_value.item(), rel=1e-6)
    assert mass.item() == pytest.approx(exact_mass.item(), rel=1e-6)
    error = (student.grad - exact_gradient).abs().max() / exact_gradient.abs().max()
    assert error.item() <= 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("beta", "tolerance"), [(1.0, 1e-6), (0.0, 3e-6)])
@pytest.mark.parametrize("noise", [1.0, 0.3, 0.1, 0.01, 0.001])
def test_float32_keeps_six_digits_where_both_nearly_agree(form, beta, tolerance, noise):
    torch.manual_seed(0)
    teacher = 2 * torch.randn(1, 10_000, 20) - 2
    student = (teacher + noise * torch.randn(1, 10_000, 20)).requires_grad_()

    value, _ = sums(student, teacher, form=form, beta=beta)
    value.backward()

    kl, difference = exact_divergence(student.detach().double(), teacher.double())
    entropy = Bernoulli(logits=teacher.double()).entropy()
    inner = kl if form == "paper" else (kl + entropy) / 2
    hardness = -torch.expm1(-(kl + beta * entropy))
    slope = 2 * hardness * (1 - hardness) * inner + hardness**2 * (1 if form == "paper" else 0.5)
    assert value.item() == pytest.approx((hardness**2 * inner).sum().item(), rel=1e-6)
    error = (student.grad - difference * slope).abs().max() / (difference * slope).abs().max()
    assert error.item() <= tolerance


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("student", "teacher"),
    # No pair is equal: there the gradient is 0 but for rounding.
    [(logit, logit + 0.7) for logit in (-20.0, -16.5, -9.0, 4.0, 15.7, 20.3)],
)
def test_float32_keeps_the_digits_of_predictions_that_are_nearly_certain(form, student, teacher):
    student = torch.tensor([[[student]]], requires_grad=True)
    teacher = torch.tensor([[[teacher]]])

    value, _ = sums(student, teacher, form=form)
    value.backward()

    exact, _, exact_gradient = reference(
        student, teacher, all_of(student), **{**DEFAULTS, "form": form}
    )
    assert value.item() == pytest.approx(exact.item(), rel=1e-4)
    # The formula itself loses digits of p - q in float64, but not so many.
    assert student.grad.item() == pytest.approx(exact_gradient.item(), rel=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.0])
def test_sums_and_gradient_are_finite_everywhere(form, beta, gamma):
    student, teacher = torch.meshgrid(EXTREME, EXTREME, indexing="ij")
    student = student[None].clone().requires_grad_()

    value, mass = sums(student, teacher[None], form=form, beta=beta, gamma=gamma)
    value.backward()

    assert value.isfinite()
    assert value >= 0
    assert mass.isfinite()
    assert student.grad.isfinite().all()


def test_equal_predictions_give_0_in_the_form_of_the_paper():
    logits = EXTREME[None, None].clone().requires_grad_()

    value, _ = sums(logits, EXTREME[None, None])
    value.backward()

    assert value.item() == 0
    assert not logits.grad.any()


def test_a_divergence_lost_in_rounding_still_has_a_gradient():
    # p - q = 1e-4 / 4: its square, 1e-9, is below what float32 can tell from 0 in log 2.
    student = torch.full((1, 1000, 1), 1e-4).requires_grad_()
    teacher = torch.linspace(-1e-6, 1e-6, 1000).reshape(1, 1000, 1)

    value, _ = sums(student, teacher, gamma=0.0)
    value.backward()

    assert value.item() >= 0
    assert torch.allclose(student.grad, torch.full_like(student, 2.5e-5), rtol=0.05)


@pytest.mark.parametrize("shape", [(2, 300, 1000), (90, 7, 300), (1, 3, 140_000), (2, 0, 3)])
def test_blocks_add_up_to_the_whole(shape):
    # Several blocks of one image, many images a block, one prior a block, nothing.
    torch.manual_seed(0)
    student, teacher = torch.randn(2, *shape)
    takes_part = torch.rand(shape[:2]) > 0.3

    value, mass = sums(student.requires_grad_(), teacher, takes_part)
    value.backward()

    expected = reference(student, teacher, takes_part, **DEFAULTS)
    assert value.item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert mass.item() == pytest.approx(expected[1].item(), rel=1e-6)
    assert torch.allclose(student.grad, expected[2].float(), rtol=1e-4, atol=1e-6)


def test_logits_may_be_any_view():
    torch.manual_seed(0)
    whole = torch.randn(2, 5, 6, 4).permute(1, 2, 3, 0).requires_grad_()
    student, teacher = whole[:, 2:, :, 0], torch.randn(5, 6, 9)[:, 2:, ::2][:, :, :4]

    value, _ = sums(student, teacher)
    (gradient,) = torch.autograd.grad(value, student)

    expected, _, exact_gradient = reference(student, teacher, all_of(student), **DEFAULTS)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert torch.allclose(gradient, exact_gradient.float(), atol=1e-6)


def test_priors_that_take_no_part_count_nowhere():
    student = torch.tensor([[[2.0], [-3.0]]], requires_grad=True)
    teacher = torch.tensor([[[1.0], [4.0]]])

    both = sums(student, teacher, torch.tensor([[True, False]]), form="official")
    both[0].backward()

    alone = sums(student[:, :1], teacher[:, :1], form="official")
    assert torch.stack(both).tolist() == pytest.approx(torch.stack(alone).tolist())
    assert student.grad.ne(0).tolist() == [[[True], [False]]]


def test_classes_meet_by_their_labels():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 4)
    labels = torch.tensor([2, 0]), torch.tensor([1, 3])

    value, mass = sums(student, teacher, labels=labels)
    value.backward()

    expected = reference(student[:, :, [2, 0]], teacher[:, :, [1, 3]], all_of(student), **DEFAULTS)
    assert value.item() == pytest.approx(expected[0].item(), rel=1e-6)
    assert mass.item() == pytest.approx(expected[1].item(), rel=1e-6)
    assert torch.allclose(student.grad[:, :, [2, 0]], expected[2].float(), atol=1e-6)
    assert not student.grad[:, :, 1].any()


def test_the_gradient_is_multiplied_by_what_comes_after():
    student = torch.randn(1, 4, 2, requires_grad=True)
    teacher = torch.randn(1, 4, 2)

    (once,) = torch.autograd.grad(sums(student, teacher)[0], student)
    (thrice,) = torch.autograd.grad(3 * sums(student, teacher)[0], student)

    assert torch.allclose(thrice, 3 * once)


def test_a_graph_that_is_kept_gives_its_gradient_again():
    student = torch.randn(1, 4, 2, requires_grad=True)
    value, _ = sums(student, torch.randn(1, 4, 2))

    (first,) = torch.autograd.grad(3 * value, student, retain_graph=True)
    (second,) = torch.autograd.grad(value, student)

    assert torch.allclose(first, 3 * second)


def test_a_gradient_of_the_gradient_is_refused():
    student = torch.randn(1, 4, 2, requires_grad=True)
    value, _ = sums(student, torch.randn(1, 4, 2))

    with pytest.raises(RuntimeError, match=r"no gradient of its own\. Found create_graph=True"):
        torch.autograd.grad(value, student, create_graph=True)


def test_the_teacher_gets_no_gradient_and_the_mass_gives_none():
    student, teacher = torch.zeros(2, 1, 3, 1).requires_grad_().unbind()
    student.retain_grad()
    teacher.retain_grad()

    value, mass = sums(student + 1, teacher)
    value.backward()

    assert student.grad.all()
    assert teacher.grad is None
    assert not mass.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    torch.manual_seed(0)
    student, teacher = (3 * torch.randn(2, 2, 50, 3)).to(dtype)

    # A gradient of 1e-9 is 0 in float16, unless it is multiplied first.
    value, mass = sums(student.requires_grad_(), teacher)
    (2**16 * value).backward()

    exact = reference(student, teacher, all_of(student), **DEFAULTS)
    assert (value.dtype, student.grad.dtype) == (torch.float32, dtype)
    assert value.item() == pytest.approx(exact[0].item(), rel=1e-6)
    assert mass.item() == pytest.approx(exact[1].item(), rel=1e-6)
    expected = (2**16 * exact[2]).to(dtype)
    assert torch.allclose(student.grad, expected, rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize(
    ("shape", "dtype", "most"),
    [
        ((2, 20_000, 80), torch.float32, 1.15),
        ((2, 12_000, 80), torch.float32, 1.15),
        ((2, 80_000, 20), torch.float32, 1.15),
        ((2, 100_000, 16), torch.float32, 1.15),
        ((2, 1_600_000, 1), torch.float32, 1.15),
        ((2, 20_000, 80), torch.bfloat16, 1.51),
        ((2, 20_000, 80), torch.float16, 1.51),
    ],
)
def test_forward_and_backward_hold_little_more_than_the_gradient(shape, dtype, most):
    student, teacher = torch.randn(2, *shape).to(dtype).requires_grad_().unbind()
    takes_part = all_of(student)

    with LiveMemory() as memory:
        value, mass = sums(student, teacher, takes_part)
        torch.autograd.grad(value / mass, student)

    assert 1 < memory.peak / (4 * student.numel()) <= most


@pytest.mark.parametrize("classes", [20, 80])
def test_class_lists_that_differ_take_little_more_memory(classes):
    student, teacher = torch.randn(2, 2, 1_600_000 // classes, classes).requires_grad_().unbind()
    labels = torch.arange(classes), torch.arange(classes).flip(0)

    with LiveMemory() as memory:
        value, mass = sums(student, teacher, labels=labels)
        torch.autograd.grad(value / mass, student)

    assert 1 < memory.peak / (4 * student.numel()) <= 1.15


def test_without_grad_no_gradient_is_computed():
    student, teacher = torch.randn(2, 2, 20_000, 80).requires_grad_().unbind()
    takes_part = all_of(student)

    with torch.no_grad(), LiveMemory() as memory:
        value, _ = sums(student, teacher, takes_part)

    assert not value.requires_grad
    assert memory.peak / (4 * student.numel()) <= 0.15

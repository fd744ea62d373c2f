"""Oracles: least squares solved anew for every candidate and step, and values by hand."""

import pytest
import torch
from torch.nn import functional as F

from distildet.ops.prototype_pursuit import pursue


def drawn(seed, n=14, c_t=6, c_s=4):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, c_t), (n, c_s)]
    return [
        F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64))
        for shape in shapes
    ]


def coordinates(rest, other, g, h, agreement):
    """The pairs (w^t, w^s) that minimise the objective, one least-squares problem an instance."""
    system = torch.zeros(len(g) + len(h) + 1, 2, dtype=torch.float64)
    system[: len(g), 0], system[len(g) : -1, 1] = g, h
    system[-1, 0], system[-1, 1] = agreement**0.5, -(agreement**0.5)
    zero = torch.zeros(1, dtype=torch.float64)
    solved = [
        torch.linalg.lstsq(system, torch.cat([r, s, zero]).unsqueeze(1), driver="gelsd").solution
        for r, s in zip(rest, other, strict=True)
    ]
    return torch.cat(solved, dim=1)  # [2 n]


def after(rest, other, g, h, agreement):
    """The residuals after a choice, and the objective without the agreement of steps before."""
    u, v = coordinates(rest, other, g, h, agreement)
    rest, other = rest - u.outer(g), other - v.outer(h)
    value = rest.square().sum() + other.square().sum() + agreement * (u - v).square().sum()
    return rest, other, value.item()


def brute_force(teacher, student, number, *, agreement, candidates):
    rest, other, indices, gains = teacher, student, [], []
    for _ in range(number):
        before = (rest.square().sum() + other.square().sum()).item()
        free = [k for k in candidates if k not in indices]
        found = {k: after(rest, other, teacher[k], student[k], agreement) for k in free}
        best = min(free, key=lambda k: found[k][2])
        rest, other, value = found[best]
        indices.append(best)
        gains.append(before - value)
    return indices, gains


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("agreement", [0.3, 10.0])
@pytest.mark.parametrize("allowed", [range(14), range(1, 14, 2)], ids=["all", "odd"])
def test_every_step_is_the_best_of_all_least_squares_problems(seed, agreement, allowed):
    teacher, student = drawn(seed)
    candidates = torch.zeros(14, dtype=torch.bool)
    candidates[list(allowed)] = True

    found = pursue(teacher, student, 4, agreement=agreement, candidates=candidates)

    indices, gains = brute_force(teacher, student, 4, agreement=agreement, candidates=allowed)
    assert found.indices.tolist() == indices
    assert found.gains.tolist() == pytest.approx(gains, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_gains_are_what_the_objective_falls_by_until_all_are_chosen(seed):
    teacher, student = drawn(seed, n=12, c_t=3, c_s=5)

    found = pursue(teacher, student, 12)

    rest, other, falls = teacher, student, []
    for k in found.indices.tolist():
        before = (rest.square().sum() + other.square().sum()).item()
        rest, other, value = after(rest, other, teacher[k], student[k], 10.0)
        falls.append(before - value)
    assert sorted(found.indices.tolist()) == list(range(12))
    assert found.gains.tolist() == pytest.approx(falls, rel=1e-10, abs=1e-12)
    assert (found.gains >= 0).all()
    assert found.gains.sum().item() <= 24


def test_the_choice_by_hand_takes_the_largest_group_first():
    # Groups of 1, 3 and 2 equal instances: a = b = 1 in its own group, 0 elsewhere; a gain is
    # ((1 + 10) * 2 + 2 * 10) / 21 = 2 an instance.
    rows = torch.eye(3)[[0, 1, 1, 1, 2, 2]]

    found = pursue(rows, rows, 3)

    assert found.indices.tolist() == [1, 4, 0]
    assert found.gains.tolist() == pytest.approx([6.0, 4.0, 2.0])


def test_a_step_can_gain_more_than_the_one_before():
    # Of r = (1, 1.7), which counts 90 times, g explains 1^2 and h (1.7 * 0.866 - 0.5)^2 = 0.945.
    # Of (0, 1.7), which g leaves, h explains (1.7 * 0.866)^2 = 2.1675. Both spaces are alike, so
    # that a gain is twice that; r^2 is 3.89.
    g, h, r = [1.0, 0.0], [-0.5, 0.75**0.5], [1.0, 1.7]
    rows = F.normalize(torch.tensor([g, h] + [r] * 90, dtype=torch.float64))

    found = pursue(rows, rows, 2, candidates=torch.arange(92) < 2)

    # Of the candidates, g explains 1 of itself and 0.25 of h, then h 0.75^2 of what is left of it.
    assert found.indices.tolist() == [0, 1]
    expected = [2 * (90 / 3.89 + 1.25), 2 * (90 * 2.1675 / 3.89 + 0.75**2)]
    assert found.gains.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("agreement", "chosen", "gain"),
    [
        # 0..3 are equal for the teacher alone: a^2, b^2 and a b sum up to 4, 1 and 1. 4 and 5 are
        # equal for both: 2, 2 and 2.
        (0.001, 0, (1.001 * 5 + 0.002 * 1) / 1.002),  # 4.997, against 4
        (10.0, 4, (11 * 4 + 20 * 2) / 21),  # 4, against (11 * 5 + 20 * 1) / 21 = 3.57
    ],
)
def test_agreement_prefers_groups_that_both_see(agreement, chosen, gain):
    teacher, student = torch.eye(2)[[0, 0, 0, 0, 1, 1]], torch.eye(5)[[0, 1, 2, 3, 4, 4]]

    found = pursue(teacher, student, 1, agreement=agreement)

    assert found.indices.tolist() == [chosen]
    assert found.gains.tolist() == pytest.approx([gain])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equal_instances_the_lowest_wins_whatever_rounding_says(dtype):
    teacher, student = (rows.to(dtype).repeat(9, 1) for rows in drawn(0, n=7))

    indices = pursue(teacher, student, 12).indices.tolist()

    kinds = [index % 7 for index in indices]
    assert len(set(kinds)) < 12
    assert [index // 7 for index in indices] == [kinds[:k].count(kinds[k]) for k in range(12)]


def test_instances_without_a_feature_gain_what_they_explain():
    teacher, student = drawn(3, n=8)
    teacher[[0, 1]] = 0
    student[[0, 2]] = 0

    found = pursue(teacher, student, 8)

    indices, gains = brute_force(teacher, student, 8, agreement=10.0, candidates=range(8))
    assert found.indices.tolist() == indices
    assert found.gains.tolist() == pytest.approx(gains, rel=1e-10, abs=1e-12)
    assert found.indices[-1] == 0


def test_nothing_but_zeros_is_chosen_in_order_and_gains_nothing():
    found = pursue(torch.zeros(3, 2), torch.zeros(3, 4), 2)

    assert found.indices.tolist() == [0, 1]
    assert found.gains.tolist() == [0.0, 0.0]


def test_float32_features_lead_to_the_same_choice_and_no_gradient():
    teacher, student = drawn(5)

    found = pursue(teacher.float().requires_grad_(), student.float().requires_grad_(), 5)

    expected = pursue(teacher, student, 5)
    assert found.indices.tolist() == expected.indices.tolist()
    torch.testing.assert_close(found.gains, expected.gains, rtol=1e-5, atol=0)
    assert not found.gains.requires_grad


def test_neither_features_nor_candidates_are_changed():
    teacher, student = drawn(0)
    candidates = torch.ones(14, dtype=torch.bool)
    copies = [teacher.clone(), student.clone()]

    pursue(teacher, student, 3, candidates=candidates)

    assert teacher.equal(copies[0])
    assert student.equal(copies[1])
    assert candidates.all()


def test_choosing_none_is_a_choice():
    found = pursue(torch.zeros(0, 2), torch.zeros(0, 3), 0)

    assert (found.indices.shape, found.gains.shape) == ((0,), (0,))
    assert (found.indices.dtype, found.gains.dtype) == (torch.int64, torch.float64)


def test_more_than_the_candidates_are_refused():
    teacher, student = drawn(0)

    with pytest.raises(ValueError, match="number is 4, but there are 3 candidates"):
        pursue(teacher, student, 4, candidates=torch.arange(14) < 3)


@pytest.mark.parametrize("agreement", [0.0, -1.0, float("nan")])
def test_an_agreement_that_holds_nothing_together_is_refused(agreement):
    teacher, student = drawn(0)

    with pytest.raises(ValueError, match="agreement is"):
        pursue(teacher, student, 1, agreement=agreement)

"""Oracles: a loop over all pairs of instances, and values by hand."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from distildet.ops import instance_density
from distildet.ops.instance_density import dense_enough, density


def drawn(seed, n=23, c=3):
    """Some instances near three directions, some anywhere."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(n, 1, generator=generator)
    directions = torch.eye(c)[torch.randint(c, (n,), generator=generator)]
    return F.normalize(directions + spread * torch.randn(n, c, generator=generator))


def naive_density(rows, bandwidth):
    rows = rows.tolist()
    found = []
    for one in rows:
        total = 0.0
        for other in rows:
            cosine = sum(x * y for x, y in zip(one, other, strict=True))
            total += math.exp(-(((1 - cosine) / bandwidth) ** 2))
        found.append(total)
    return found


@pytest.mark.parametrize("bandwidth", [0.1, 0.7])
@pytest.mark.parametrize("chunk", [1, 100, 10**6], ids=["row by row", "some rows", "at once"])
def test_the_density_is_the_loop_over_all_pairs(monkeypatch, bandwidth, chunk):
    monkeypatch.setattr(instance_density, "CHUNK", chunk)
    rows = drawn(0)

    assert density(rows, bandwidth).tolist() == pytest.approx(naive_density(rows, bandwidth))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("percentile", [0.0, 0.4, 0.75])
def test_kept_is_what_reaches_the_percentile_in_both_spaces(seed, percentile):
    teacher, student = drawn(seed), drawn(seed + 100, c=5)

    options = {"percentile": percentile, "bandwidth": 0.2, "at_least": 0}
    kept = dense_enough(teacher, student, **options)

    for_both = [np.array(naive_density(rows, 0.2)) for rows in (teacher, student)]
    reach = [each >= np.quantile(each, percentile) * (1 - 1e-9) for each in for_both]
    assert kept.tolist() == (reach[0] & reach[1]).tolist()


def test_by_hand_those_with_the_most_equals_are_kept():
    # Teacher: 3 of a, 2 of b, 1 of c; densities 3 3 3 2 2 1, percentile 0.4 = 2: a and b. Student:
    # 2 of a, 3 of b, 1 of c in other places; densities 1 2 2 3 3 3, percentile 0.4 = 2: 1..5.
    axes = torch.eye(3)

    kept = dense_enough(axes[[0, 0, 0, 1, 1, 2]], axes[[2, 0, 0, 1, 1, 1]])

    assert kept.tolist() == [False, True, True, True, True, False]


@pytest.mark.parametrize("at_least", [1, 2, 3, 6])
def test_too_few_are_completed_by_the_lower_of_the_two_ranks(at_least):
    # How many are less dense than each, from the groups: teacher 0 0 0 3 3 3 with the densest 3..5,
    # student 3 3 3 0 1 1: the lower is 0 0 0 0 1 1, equal ones in order. None is dense in both.
    axes = torch.eye(7)
    teacher, student = axes[[0, 1, 2, 3, 3, 3]], axes[[0, 0, 0, 1, 2, 2]]
    order = [4, 5, 0, 1, 2, 3]

    kept = dense_enough(teacher, student, percentile=0.8, at_least=at_least)

    assert kept.nonzero().squeeze(1).tolist() == sorted(order[:at_least])


def test_enough_are_left_as_they_are():
    teacher, student = drawn(0), drawn(1)
    kept = dense_enough(teacher, student)
    number = int(kept.sum())

    assert dense_enough(teacher, student, at_least=number).equal(kept)
    assert int(dense_enough(teacher, student, at_least=number + 1).sum()) == number + 1


def test_equal_instances_are_all_kept():
    rows = F.normalize(torch.randn(1, 7, generator=torch.Generator().manual_seed(0)))

    assert dense_enough(rows.repeat(11, 1), rows.repeat(11, 1)).all()


def polygon(n=17):
    """Instances around a circle: all are equally dense, but for rounding."""
    angles = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], dim=1)


def test_rounding_leaves_no_equally_dense_instance_out():
    assert len(set(density(polygon(), 0.1).tolist())) > 1

    assert dense_enough(polygon(), polygon()).all()


def test_rounding_does_not_decide_which_equally_dense_instances_are_added():
    # Five equal ones on the third axis are densest; 0..16 have 2.3 each.
    rows = torch.cat([polygon(), torch.eye(3, dtype=torch.float64)[[2] * 5]])

    kept = dense_enough(rows, rows, percentile=0.9, at_least=8)

    assert kept.nonzero().squeeze(1).tolist() == [0, 1, 2, 17, 18, 19, 20, 21]


def test_instances_without_a_feature_are_no_group():
    rows = torch.cat([torch.zeros(3, 4), drawn(0, n=6, c=4)])

    assert density(rows, 0.1)[:3].max() < 1e-30
    assert not dense_enough(rows, rows)[:3].any()


def test_all_kinds_of_nothing_have_a_value():
    assert dense_enough(torch.zeros(0, 2), torch.zeros(0, 3), at_least=0).shape == (0,)
    assert dense_enough(torch.zeros(1, 2), torch.zeros(1, 3)).tolist() == [True]


def test_more_than_there_are_cannot_be_kept():
    with pytest.raises(ValueError, match="at_least is 24, but there are 23 instances"):
        dense_enough(drawn(0), drawn(1), at_least=24)

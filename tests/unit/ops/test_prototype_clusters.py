"""Oracles: a naive iteration of Lloyd, groups far apart, and values by hand."""

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from distildet.ops.prototype_clusters import cluster_centres, moved_centres, spread_rows


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def points(seed, n=40, d=3):
    return torch.randn(n, d, generator=seeded(seed), dtype=torch.float64)


def groups(seed, n=60, number=5, noise=0.05):
    """Instances of groups that are far apart in both spaces, and the group of each."""
    generator = seeded(seed)
    labels = torch.arange(n) % number
    spaces = [
        F.normalize(torch.eye(c)[labels] + noise * torch.randn(n, c, generator=generator))
        for c in (8, 6)
    ]
    return *spaces, labels


def naive_objective(rows, centres):
    return sum(
        min(sum((x - c) ** 2 for x, c in zip(row, centre, strict=True)) for centre in centres)
        for row in rows.tolist()
    )


def naive_lloyd(rows, centres):
    """One iteration where no centre is left alone."""
    members = [[] for _ in centres]
    for row in rows:
        distances = [(row - centre).square().sum().item() for centre in centres]
        members[distances.index(min(distances))].append(row)
    return torch.stack([sum(each) / len(each) for each in members])


@pytest.mark.parametrize("seed", range(4))
def test_an_iteration_is_that_of_the_naive_loop(seed):
    rows = points(seed)

    moved = moved_centres(rows, rows[:4])

    torch.testing.assert_close(moved, naive_lloyd(rows, rows[:4]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("far", [0.0, 50.0], ids=["among the rows", "left alone at first"])
def test_the_objective_never_rises(seed, far):
    rows, centres = points(seed), points(seed + 50, n=6)
    centres[3:] += far

    values = []
    for _ in range(12):
        values.append(naive_objective(rows, centres.tolist()))
        centres = moved_centres(rows, centres)

    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(values))
    assert values[-1] < 0.9 * values[0]


def test_centres_left_alone_take_the_farthest_rows():
    # 0 and 1 belong to 0, 10 and 12 to 9; two centres are left. Farthest are 12 (9) and, of those
    # at a distance of 1, the lowest row: 1.
    rows = torch.tensor([[0.0], [1.0], [10.0], [12.0]])

    moved = moved_centres(rows, torch.tensor([[0.0], [90.0], [9.0], [-90.0]]))

    assert moved.tolist() == [[0.0], [12.0], [10.0], [1.0]]


def test_a_centre_whose_only_row_is_taken_stays():
    rows = torch.tensor([[0.0], [5.0]])

    assert moved_centres(rows, torch.tensor([[0.0], [7.0], [70.0]])).tolist() == [[0], [7], [5]]


@pytest.mark.parametrize("seed", range(6))
def test_groups_that_are_far_apart_are_found(seed):
    teacher, student, labels = groups(seed)

    found = cluster_centres(teacher, student, 5, generator=seeded(seed))

    order = labels[found.nearest]
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]
    for centres, rows in ((found.teacher, teacher), (found.student, student)):
        means = torch.stack([rows[labels == label].mean(0) for label in order])
        torch.testing.assert_close(centres, F.normalize(means))


def test_both_spaces_tell_groups_apart():
    # Four groups; each space alone knows two.
    axes = torch.eye(2)
    teacher, student = axes[[0, 0, 1, 1] * 5], axes[[0, 1, 0, 1] * 5]

    found = cluster_centres(teacher, student, 4, generator=seeded(0))

    assert sorted(found.nearest.tolist()) == [0, 1, 2, 3]


def test_the_nearest_instance_is_that_of_the_largest_cosines():
    teacher, student, _ = groups(0, noise=0.4)

    found = cluster_centres(teacher, student, 3, generator=seeded(0))

    cosines = found.teacher @ teacher.T + found.student @ student.T  # [k n]
    assert found.nearest.tolist() == cosines.argmax(1).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(3))
def test_centres_have_unit_norm_and_the_type_of_the_features(dtype, seed):
    teacher, student, _ = groups(seed, noise=0.5)

    found = cluster_centres(teacher.to(dtype), student.to(dtype), 7, generator=seeded(seed))

    assert (found.teacher.shape, found.student.shape) == ((7, 8), (7, 6))
    torch.testing.assert_close(found.teacher.norm(dim=1), torch.ones(7, dtype=dtype))
    torch.testing.assert_close(found.student.norm(dim=1), torch.ones(7, dtype=dtype))
    assert len(set(found.nearest.tolist())) == 7


def test_the_same_seed_finds_the_same_and_the_global_generator_is_left_alone():
    teacher, student, _ = groups(0, noise=1.0)
    state = torch.get_rng_state()

    first, second = (cluster_centres(teacher, student, 6, generator=seeded(3)) for _ in range(2))

    assert first.teacher.equal(second.teacher)
    assert first.student.equal(second.student)
    assert first.nearest.equal(second.nearest)
    assert torch.get_rng_state().equal(state)


def test_without_iterations_the_centres_are_the_rows_drawn():
    teacher, student, _ = groups(0, noise=1.0)

    found = cluster_centres(teacher, student, 6, generator=seeded(3), iterations=0)

    rows = torch.cat([teacher, student], dim=1).double()
    assert found.nearest.equal(spread_rows(rows, 6, generator=seeded(3)))
    torch.testing.assert_close(found.teacher, teacher[found.nearest])


def test_more_groups_than_different_instances_are_all_instances():
    rows = torch.eye(2)[[0, 0, 0, 1]]

    found = cluster_centres(rows, rows, 4, generator=seeded(0))

    assert sorted(found.nearest.tolist()) == [0, 1, 2, 3]
    torch.testing.assert_close(found.teacher.norm(dim=1), torch.ones(4))


def test_instances_without_a_feature_have_a_centre_of_zeros():
    rows = torch.cat([torch.zeros(2, 3), torch.eye(3)[[0, 0]]])

    found = cluster_centres(rows, rows, 2, generator=seeded(0))

    assert sorted(found.teacher.tolist()) == [[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]


def test_rows_are_drawn_as_often_as_their_squared_distance_says():
    # After the first row 9 to 1 for the row at a distance of 3, against that at 1. Of 1500 draws a
    # third begins with the first row.
    rows = torch.tensor([[0.0], [1.0], [3.0]])
    generator = seeded(0)

    pairs = [tuple(spread_rows(rows, 2, generator=generator).tolist()) for _ in range(1500)]

    begun = [pair for pair in pairs if pair[0] == 0]
    # Four standard deviations of 500 draws: 4 * sqrt(0.9 * 0.1 / 500) = 0.054.
    assert begun.count((0, 2)) / len(begun) == pytest.approx(0.9, abs=0.054)
    # The same of the first draws: 4 * sqrt(1/3 * 2/3 / 1500) = 0.049.
    assert len(begun) / len(pairs) == pytest.approx(1 / 3, abs=0.049)


@pytest.mark.parametrize("number", [0, 61])
def test_a_number_that_cannot_be_is_refused(number):
    teacher, student, _ = groups(0)

    with pytest.raises(ValueError, match=f"number is {number}, expected is 1..60"):
        cluster_centres(teacher, student, number, generator=seeded(0))

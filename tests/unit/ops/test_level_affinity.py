"""Oracles: values by hand, HSIC from Gram matrices in float64, and every map tried."""

from itertools import combinations_with_replacement

import pytest
import torch

from distildet.ops.level_affinity import linear_cka, ordered_map


def cka_of_gram_matrices(own, guide):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), as the paper's equations 1 and 2."""
    centring = torch.eye(len(own), dtype=torch.float64) - 1 / len(own)
    grams = [one.double() @ one.double().T @ centring for one in (own, guide)]
    cross, first, second = (torch.trace(grams[i] @ grams[j]) for i, j in ((0, 1), (0, 0), (1, 1)))
    return float(cross / (first * second).sqrt())


def column(*values):
    return torch.tensor(values)[:, None]


def random_rows(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("own", "guide", "expected"),
    [
        # Less their means: -1, 0, 1 and -1, -1, 2; 3² / (2 * 6).
        (column(0.0, 1.0, 2.0), column(5.0, 5.0, 8.0), 0.75),
        # -1, 0, 1 and -1, 2, -1 are orthogonal.
        (column(0.0, 1.0, 2.0), column(0.0, 3.0, 0.0), 0.0),
        # -1, 1 beside 0, 0; -2, 2 and 3, -3: a product of (4, -6), 52 / (2 * (8 + 18)).
        (
            torch.tensor([[0.0, 4.0], [2.0, 4.0]]),
            torch.tensor([[0.0, 6.0], [4.0, 0.0]]),
            1.0,
        ),
    ],
)
def test_cka_by_hand(own, guide, expected):
    assert linear_cka(own, guide).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(30, (3, 5)), (6, (9, 2)), (4, (1, 8))])
def test_cka_is_that_of_gram_matrices(rows, columns):
    own = random_rows(rows, columns[0])
    guide = random_rows(rows, columns[1], seed=1) + 3
    guide[:, 0] += own[:, 0]

    expected = cka_of_gram_matrices(own, guide)
    assert 0.01 < expected < 0.99
    assert linear_cka(own, guide).item() == pytest.approx(expected, rel=1e-4)
    assert linear_cka(guide, own).item() == pytest.approx(expected, rel=1e-4)


def test_cka_does_not_change_with_a_rotation_a_shift_and_a_scale():
    own, guide = random_rows(20, 4), random_rows(20, 3, seed=1)
    rotation = torch.linalg.qr(random_rows(4, 4, seed=2))[0]

    changed = 1e-3 * own @ rotation + torch.tensor([1e-3, -5e-3, 0.0, 2e-3])

    before = linear_cka(own, guide).item()
    assert linear_cka(changed, guide).item() == pytest.approx(before, rel=1e-4)
    assert linear_cka(own, changed).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cka_of_tiny_and_huge_values_is_that_of_others(scale):
    own, guide = random_rows(20, 4), random_rows(20, 3, seed=1)

    expected = linear_cka(own, guide).item()
    assert linear_cka(own * scale, guide / scale).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 48, 100])
def test_cka_with_what_is_the_same_everywhere_is_0_however_means_are_rounded(rows):
    same, also_same = torch.full((rows, 3), 0.1), torch.full((rows, 2), 0.3)

    assert linear_cka(same, also_same) == 0
    assert linear_cka(same, random_rows(rows, 2)) == 0
    assert linear_cka(random_rows(rows, 2), same) == 0


def test_cka_of_no_places_is_0():
    assert linear_cka(torch.zeros(0, 3), torch.zeros(0, 2)) == 0


def test_cka_of_other_places_is_refused():
    with pytest.raises(ValueError, match=r"^own has 3 rows and guide 2, expected as many\.$"):
        linear_cka(torch.zeros(3, 1), torch.zeros(2, 1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (4, 1), (2, 5), (4, 4), (5, 3), (3, 6)])
@pytest.mark.parametrize("seed", range(5))
def test_the_map_is_the_best_of_all_that_do_not_cross(shape, seed):
    # Few whole numbers, so that several maps are as good.
    affinity = torch.randint(-2, 3, shape, generator=torch.Generator().manual_seed(seed)).double()

    def total(columns):
        return sum(float(affinity[row, column]) for row, column in enumerate(columns))

    maps = list(combinations_with_replacement(range(shape[1]), shape[0]))
    most = max(map(total, maps))
    # Of equal ones the first columns, looked at from the last row.
    best = min((one for one in maps if total(one) == most), key=lambda one: one[::-1])
    assert ordered_map(affinity) == list(best)


@pytest.mark.parametrize(
    ("affinity", "expected"),
    [
        # The best of each row would cross: 0.9 + 0.3 is less than 0.8 + 0.7.
        ([[0.8, 0.9], [0.7, 0.3]], [0, 0]),
        ([[1.0, 0.5, 0.2], [0.5, 1.0, 0.5], [0.2, 0.5, 1.0]], [0, 1, 2]),
        # A teacher with one level more, the second.
        ([[1.0, 0.7, 0.4, 0.1], [0.4, 0.7, 1.0, 0.6], [0.1, 0.3, 0.6, 1.0]], [0, 2, 3]),
        # Two rows that are most like one column.
        ([[0.9, 0.1], [0.8, 0.3], [0.2, 0.7]], [0, 0, 1]),
        ([[0.0, 0.0], [0.0, 0.0]], [0, 0]),
    ],
)
def test_maps_by_hand(affinity, expected):
    assert ordered_map(torch.tensor(affinity)) == expected

"""Oracles: affinities by hand, and towers of which the right pairs are known."""

import pytest
import torch

from distildet.losses.hands_on_guidance.correspondence import affinities
from distildet.losses.hands_on_guidance.levels import level_groups
from distildet.ops.level_affinity import linear_cka, ordered_map


@pytest.fixture
def group_of(spec_of):
    def make(own, guide):
        (group,) = level_groups(spec_of(own), spec_of(guide), ("neck",))
        return group

    return make


def random_grids(names, channels, rows=40):
    generator = torch.Generator().manual_seed(0)
    return [{f"{name} grid": torch.randn(rows, channels, generator=generator) for name in names}]


def test_an_affinity_is_the_cka_less_the_octaves_between_strides(group_of):
    group = group_of({"P3": 3, "P5": 3}, {"P3": 4, "P4": 4})
    own, guide = random_grids(("P3", "P5"), 3), random_grids(("P3", "P4"), 4)

    found = affinities(group, own, guide, stride_penalty=0.25)

    octaves = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    cka = torch.tensor(
        [
            [linear_cka(own[0][f"{i} grid"], guide[0][f"{j} grid"]) for j in ("P3", "P4")]
            for i in ("P3", "P5")
        ]
    )
    torch.testing.assert_close(found, cka - 0.25 * octaves)
    torch.testing.assert_close(affinities(group, own, guide, stride_penalty=0.0), cka)


def test_places_of_all_batches_count(group_of):
    group = group_of({"P3": 3}, {"P3": 4})
    own, guide = random_grids(("P3",), 3), random_grids(("P3",), 4)
    parts = [
        [{"P3 grid": one[0]["P3 grid"][rows]} for rows in (slice(0, 16), slice(16, 40))]
        for one in (own, guide)
    ]

    expected = affinities(group, own, guide, stride_penalty=0.0)
    assert affinities(group, *parts, stride_penalty=0.0).equal(expected)


@pytest.mark.parametrize("side", [0, 1])
def test_a_place_that_is_not_finite_on_one_side_counts_on_neither(group_of, side):
    group = group_of({"P3": 3}, {"P3": 4})
    seen = random_grids(("P3",), 3), random_grids(("P3",), 4)
    without = [[{"P3 grid": one[0]["P3 grid"][:39]}] for one in seen]

    expected = affinities(group, *without, stride_penalty=0.0)
    seen[side][0]["P3 grid"][39, 1] = float("inf")
    assert affinities(group, *seen, stride_penalty=0.0).equal(expected)


def test_where_no_place_is_finite_strides_alone_decide(group_of):
    group = group_of({"P3": 3, "P4": 3}, {"P4": 4, "P3": 4})
    nowhere = [{f"{name} grid": torch.full((16, 3), float("nan")) for name in ("P3", "P4")}]

    found = affinities(group, nowhere, nowhere, stride_penalty=0.5)

    assert found.tolist() == [[0, -0.5], [-0.5, 0]]


def tower(depth, rows=200):
    """Grids of which each is the last one, turned and mixed with something else."""
    generator = torch.Generator().manual_seed(1)
    grids = [torch.randn(rows, 6, generator=generator)]
    for _ in range(depth - 1):
        grids.append(grids[-1] + 0.7 * torch.randn(rows, 6, generator=generator))
    return grids


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ((0, 1, 2, 3), [0, 1, 2, 3]),
        # A teacher with one level more.
        ((1, 2, 3), [1, 2, 3]),
        ((0, 2, 3), [0, 2, 3]),
        ((0, 1, 3), [0, 1, 3]),
        ((0, 1, 2), [0, 1, 2]),
    ],
)
def test_levels_find_those_that_they_are_a_rotation_of(group_of, taken, expected):
    # All of one stride, so that this alone decides.
    teacher = tower(4)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))[0]
    names = ("P3", "P4", "P5", "P6")
    own_names = names[: len(taken)]
    group = group_of(dict.fromkeys(own_names, 6), dict.fromkeys(names, 6))
    own = {
        f"{name} grid": teacher[level] @ rotation
        for name, level in zip(own_names, taken, strict=True)
    }
    guide = {f"{name} grid": one for name, one in zip(names, teacher, strict=True)}

    assert ordered_map(affinities(group, [own], [guide], stride_penalty=0.0)) == expected

"""Oracles: least squares of a stacked system, matching pursuit step by step, values by hand."""

import pytest
import torch
from torch.nn import functional as F

from distildet.ops.prototype_coordinates import (
    coordinates,
    projection_map,
    reliability_of_best,
    reliability_of_distance,
    unit_rows,
)


def random_rows(number, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(number, channels, generator=generator, dtype=torch.float64))


def pursued(feature, prototypes):
    """Of what is left over, the part along each prototype in turn."""
    rest, found = feature.clone(), []
    for prototype in prototypes:
        coordinate = sum((rest * prototype).tolist())
        rest = rest - coordinate * prototype
        found.append(coordinate)
    return torch.tensor(found, dtype=torch.float64)


def ridge(feature, prototypes):
    """The least squares of |f - G'w|² + 0.01 |w|², the penalty as further equations w_j 0.1 = 0."""
    number = len(prototypes)
    system = torch.cat([prototypes.T, 0.1 * torch.eye(number, dtype=torch.float64)])
    wanted = torch.cat([feature, torch.zeros(number, dtype=torch.float64)])
    return torch.linalg.lstsq(system, wanted[:, None]).solution[:, 0]


def cosines(feature, prototypes):
    return torch.tensor(
        [
            sum(f * g for f, g in zip(feature.tolist(), prototype, strict=True))
            for prototype in prototypes.tolist()
        ],
        dtype=torch.float64,
    )


def test_rows_get_the_norm_1_in_float32_and_zeros_stay():
    rows = unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], dtype=torch.bfloat16))

    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]]))


@pytest.mark.parametrize(
    ("projection", "oracle"), [("cosine", cosines), ("ridge", ridge), ("pursuit", pursued)]
)
# One, several, and more prototypes than channels.
@pytest.mark.parametrize("number", [1, 3, 8])
def test_the_map_gives_the_coordinates_by_their_definition(projection, oracle, number):
    prototypes, feature = random_rows(number), random_rows(1, seed=1)[0]

    found = projection_map(prototypes, projection) @ feature

    torch.testing.assert_close(found, oracle(feature, prototypes), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("projection", ["ridge", "pursuit"])
def test_a_prototype_twice_keeps_coordinates_finite(projection):
    # Ridge: both half of 2 / 2.01; pursuit: the second finds nothing left over.
    prototypes = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)

    found = projection_map(prototypes, projection) @ torch.tensor([1.0, 0.0], dtype=torch.float64)

    expected = {"ridge": [1 / 2.01, 1 / 2.01], "pursuit": [1.0, 0.0]}[projection]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("projection", ["cosine", "ridge", "pursuit"])
def test_without_prototypes_the_map_has_no_rows(projection):
    assert projection_map(torch.zeros(0, 4), projection).shape == (0, 4)


def test_coordinates_are_those_of_the_class_and_0_where_there_is_no_prototype():
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.5], [0.0, 2.0]]])
    features = torch.tensor([[0.6, 0.8], [0.8, -0.6], [0.6, 0.8]])

    found = coordinates(features, maps, torch.tensor([1, 0, 0]))

    torch.testing.assert_close(found, torch.tensor([[0.7, 1.6], [0.8, 0.0], [0.6, 0.0]]))


def test_reliability_falls_with_the_distance_of_coordinates_to_0():
    # Apart by nothing, by |(0.3, 0.4)| = 0.5, and by more than 1.
    own = torch.tensor([[0.2, 0.1], [0.3, 0.0], [1.0, 0.0]])
    guide = torch.tensor([[0.2, 0.1], [0.0, 0.4], [0.0, 1.0]])

    found = reliability_of_distance(own, guide)

    torch.testing.assert_close(found, torch.tensor([1.0, 0.5, 0.0]))


def test_reliability_compares_the_best_cosines_of_counted_prototypes():
    # Best of counted: 0.5 and 0.9, at different prototypes; 0.1 and 0.3; -1 and 1: more than 1
    # apart; none.
    own = torch.tensor([[0.5, 0.2, 0.9], [0.1, 0.9, 0.9], [-1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    guide = torch.tensor([[0.1, 0.9, -0.9], [0.3, -0.9, 0.1], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    counted = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]).bool()

    found = reliability_of_best(own, guide, counted)

    torch.testing.assert_close(found, torch.tensor([0.6, 0.8, 0.0, 1.0]))


def test_no_reliability_has_a_gradient():
    own, guide = (torch.rand(3, 2, requires_grad=True) for _ in range(2))

    by_distance = reliability_of_distance(own, guide)
    by_best = reliability_of_best(own, guide, torch.ones(3, 2, dtype=torch.bool))

    assert not by_distance.requires_grad
    assert not by_best.requires_grad


def test_objects_that_are_not_there_have_no_reliability():
    nothing = torch.zeros(0, 2)

    assert reliability_of_distance(nothing, nothing).shape == (0,)
    assert reliability_of_best(nothing, nothing, nothing.bool()).shape == (0,)

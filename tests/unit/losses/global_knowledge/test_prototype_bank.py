"""Oracles: both definitions object by object in float64, and prototypes chosen by hand."""

import pytest
import torch
from torch.nn import functional as F

from distildet.losses.global_knowledge.prototype_bank import NOTHING, PrototypeBank

CLASSES, OWN, GUIDE = 3, 4, 6


def unit(number, channels, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(number, channels, generator=generator))


def everything(number):
    return torch.ones(number, dtype=torch.bool)


@pytest.fixture
def bank_of(options_of):
    def make(**changes):
        return PrototypeBank(CLASSES, OWN, GUIDE, options_of(**changes))

    return make


@pytest.fixture
def filled(bank_of):
    """A bank of classes 0 and 2, of 9 and of 4 instances, with these features."""

    def make(**changes):
        bank = bank_of(**{"num_prototypes": 4, **changes})
        own, guide = unit(13, OWN, 1), unit(13, GUIDE, 2)
        bank.fill(own, guide, torch.tensor([0, 2, 0] * 4 + [0]), everything(13))
        return bank, own, guide

    return make


def prototypes_of(bank, own, guide, label):
    """[k c_s] and [k c_t] in float64 of the instances that a bank has chosen."""
    places = [place for place in bank.chosen[label].tolist() if place != NOTHING]
    return own[places].double(), guide[places].double()


def projected(feature, prototypes, kind):
    if kind == "cosine":
        return torch.stack([(feature * prototype).sum() for prototype in prototypes])
    if kind == "ridge":
        penalty = 0.1 * torch.eye(len(prototypes), dtype=torch.float64)
        wanted = torch.cat([feature, torch.zeros(len(prototypes), dtype=torch.float64)])
        return torch.linalg.lstsq(torch.cat([prototypes.T, penalty]), wanted[:, None]).solution[
            :, 0
        ]
    rest, found = feature.clone(), []
    for prototype in prototypes:
        found.append((rest * prototype).sum())
        rest = rest - found[-1] * prototype
    return torch.stack(found)


def naive_paper(objects, prototypes, kind):
    """Sum, number of objects that count, and the reliability of each."""
    value, count, reliability = 0.0, 0, []
    for own, guide, label in objects:
        own_prototypes, guide_prototypes = prototypes[label]
        if not len(own_prototypes):
            reliability.append(1.0)
            continue
        phi = projected(own, own_prototypes, kind)
        guide_phi = projected(guide, guide_prototypes, kind)
        squared = ((phi - guide_phi) ** 2).sum().item()
        rho = min(max(1 - squared**0.5, 0.0), 1.0)
        value += rho * squared / (2 * len(phi))
        count += 1
        reliability.append(rho)
    return value, count, reliability


def smooth_l1(difference):
    size = abs(difference)
    return size * size / 2 if size < 1 else size - 0.5


def naive_official(objects, prototypes):
    """Sum, number of pairs of objects and prototypes, and the reliability of each object."""
    value, count, reliability = 0.0, 0, []
    for own, guide, label in objects:
        best = []
        for feature, side in ((own, 0), (guide, 1)):
            cosines = [(feature @ one).item() for one in prototypes[label][side]]
            best.append(max(cosines, default=0.0))
        rho = min(max(1 - abs(best[0] - best[1]), 0.0), 1.0)
        reliability.append(rho)
        if not len(prototypes[label][0]):
            continue
        for own_prototypes, guide_prototypes in prototypes:
            for one, other in zip(own_prototypes, guide_prototypes, strict=True):
                value += smooth_l1(rho * (own @ one).item() - rho * (guide @ other).item())
                count += 1
    return value, count, reliability


def some_objects():
    """Seven objects, of all classes, the student's near a teacher's or not."""
    own, guide = unit(7, OWN, 3), unit(7, GUIDE, 4)
    labels = torch.tensor([0, 1, 2, 0, 2, 1, 0])
    return own, guide, labels


def one_by_one(own, guide, labels):
    return list(zip(own.double(), guide.double(), labels.tolist(), strict=True))


@pytest.mark.parametrize("kind", ["cosine", "ridge", "pursuit"])
def test_in_the_paper_it_is_a_loop_over_objects_of_classes_with_prototypes(filled, kind):
    bank, own, guide = filled(variant="paper", projection=kind)
    prototypes = [prototypes_of(bank, own, guide, label) for label in range(CLASSES)]
    objects = some_objects()

    found = bank.compare(*objects)

    value, count, reliability = naive_paper(one_by_one(*objects), prototypes, kind)
    assert found.difference.item() == pytest.approx(value, rel=1e-4)
    assert found.count.item() == count == 5
    assert found.reliability.tolist() == pytest.approx(reliability, abs=1e-5)
    assert found.reliability[1] == found.reliability[5] == 1


def test_in_the_paper_objects_alike_in_both_spaces_are_a_loop_too(filled):
    # Near the prototypes of both, so that the reliability is not 0.
    bank, own, guide = filled(variant="paper")
    prototypes = [prototypes_of(bank, own, guide, label) for label in range(CLASSES)]
    objects = (
        F.normalize(own + 0.1 * unit(13, OWN, 5)),
        F.normalize(guide + 0.1 * unit(13, GUIDE, 6)),
        torch.tensor([0, 2, 0] * 4 + [0]),
    )

    found = bank.compare(*objects)

    value, count, reliability = naive_paper(one_by_one(*objects), prototypes, "pursuit")
    assert sum(rho > 0.1 for rho in reliability) >= 3
    assert found.difference.item() == pytest.approx(value, rel=1e-4)
    assert found.count.item() == count == 13
    assert found.reliability.tolist() == pytest.approx(reliability, abs=1e-5)


def test_officially_it_is_a_loop_over_objects_and_prototypes_of_all_classes(filled):
    bank, own, guide = filled()
    prototypes = [prototypes_of(bank, own, guide, label) for label in range(CLASSES)]
    objects = some_objects()

    found = bank.compare(*objects)

    value, count, reliability = naive_official(one_by_one(*objects), prototypes)
    # Three of the first class's nine instances, one of the last one's four.
    assert [len(one) for one, _ in prototypes] == [3, 0, 1]
    assert found.difference.item() == pytest.approx(value, rel=1e-5)
    assert found.count.item() == count == 5 * 4  # two objects are of the class without any
    assert found.reliability.tolist() == pytest.approx(reliability, abs=1e-6)
    assert found.reliability[1] == found.reliability[5] == 1


def test_officially_differences_above_1_count_by_their_size(bank_of):
    # Cosines to the prototype of its own class are equal, so that rho is 1; those to the other
    # class's are 0.8 and -0.8: 1.6 - 1/2.
    bank = bank_of()
    axes = torch.eye(GUIDE)[:2]
    bank.fill(axes[:, :OWN], axes, torch.tensor([0, 1]), everything(2))
    own, guide = 0.6 * axes[1:] + 0.8 * axes[:1], 0.6 * axes[1:] - 0.8 * axes[:1]

    found = bank.compare(own[:, :OWN], guide, torch.tensor([1]))

    assert found.difference.item() == pytest.approx(1.1)
    assert found.count.item() == 2


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_an_empty_bank_finds_no_difference_and_relies_on_all(bank_of, variant):
    found = bank_of(variant=variant).compare(*some_objects())

    assert found.difference.item() == found.count.item() == 0
    assert found.reliability.tolist() == [1.0] * 7


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_without_objects_there_is_no_difference(filled, variant):
    bank, _, _ = filled(variant=variant)

    found = bank.compare(torch.zeros(0, OWN), torch.zeros(0, GUIDE), torch.zeros(0).long())

    assert found.difference.item() == found.count.item() == 0
    assert found.reliability.shape == (0,)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_the_gradient_takes_reliability_as_a_constant(filled, variant):
    # The naive sum of one object with its reliability held, by small steps in float64.
    bank, _, _ = filled(variant=variant, projection="cosine")
    guide, labels = bank.guide_maps[0, :1].clone(), torch.tensor([0])
    own = F.normalize(bank.own_maps[0, :1] + 0.3 * unit(1, OWN, 5)).requires_grad_()

    found = bank.compare(own, guide, labels)
    found.difference.backward()

    rho, maps, guide_maps = found.reliability.double(), bank.own_maps, bank.guide_maps
    if variant == "paper":
        maps, guide_maps = maps[0].double(), guide_maps[0].double()
        apart = maps @ own[0].detach().double() - guide_maps @ guide[0].double()
        expected = rho * apart @ maps / 3
    else:
        maps, guide_maps = maps.flatten(0, 1).double(), guide_maps.flatten(0, 1).double()
        apart = rho * (maps @ own[0].detach().double() - guide_maps @ guide[0].double())
        expected = (rho * apart.clamp(-1, 1)) @ maps
    assert 0 < rho < 1
    torch.testing.assert_close(own.grad[0].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("instances", "most", "number"),
    [(1, 10, 1), (2, 10, 1), (3, 10, 1), (5, 10, 1), (6, 10, 2), (29, 10, 9), (29, 4, 4)],
)
@pytest.mark.parametrize("prototypes", ["pursuit", "kmeans", "random"])
def test_of_three_instances_one_is_a_prototype_and_k_at_most(
    bank_of, instances, most, number, prototypes
):
    bank = bank_of(num_prototypes=most, prototypes=prototypes)

    bank.fill(
        unit(instances, OWN, 1),
        unit(instances, GUIDE, 2),
        torch.ones(instances, dtype=torch.int64),
        everything(instances),
    )

    assert bank.is_filled.sum(1).tolist() == [0, number, 0]
    assert bank.is_filled[1, :number].all()
    chosen = bank.chosen[1, :number].tolist()
    assert len(set(chosen)) == number
    assert set(chosen) <= set(range(instances))


def test_chosen_numbers_are_places_among_all_observed_instances(bank_of):
    # Of class 2 are 1, 3, 5, 6; 3 is too small. Its first axis explains two of three.
    axes = torch.eye(6)[[4, 0, 4, 2, 5, 0, 1]]
    labels, counts = torch.tensor([0, 2, 0, 2, 1, 2, 2]), everything(7)
    counts[[3, 4]] = False
    bank = bank_of()

    bank.fill(axes[:, :OWN], axes, labels, counts)

    assert bank.chosen[:, 0].tolist() == [0, NOTHING, 1]
    torch.testing.assert_close(bank.guide_maps[2, 0], torch.eye(6)[0])
    torch.testing.assert_close(bank.own_maps[2, 0], torch.eye(6)[0, :OWN])


@pytest.mark.parametrize(("instances", "is_filtered"), [(29, False), (30, True)])
def test_from_30_instances_on_one_far_from_all_others_is_no_candidate(
    bank_of, instances, is_filtered
):
    # All but one on two axes; that one, on a third, is the third best to choose.
    axes = torch.tensor([0, 1] * (instances // 2) + [0])[: instances - 1]
    rows = torch.eye(GUIDE)[torch.cat([axes, torch.tensor([2])])]
    bank = bank_of(num_prototypes=3)

    bank.fill(rows[:, :OWN], rows, torch.zeros(instances).long(), everything(instances))

    assert ((instances - 1) in bank.chosen[0, :3].tolist()) is not is_filtered


def test_where_the_filter_leaves_too_few_candidates_there_are_k_all_the_same(bank_of):
    # Of 30 instances 18 are alike for the teacher, 18 for the student, and 6 for both.
    guide = torch.eye(GUIDE)[[0] * 18 + [1, 2, 3, 4, 5, 1] * 2]
    own = torch.eye(OWN)[[1, 2, 3] * 4 + [0] * 18]
    bank = bank_of()

    bank.fill(own, guide, torch.zeros(30).long(), everything(30))

    assert bank.is_filled[0].tolist() == [True] * 10
    assert set(range(12, 18)) <= set(bank.chosen[0].tolist())


@pytest.mark.parametrize(("agreement", "chosen"), [(10.0, 0), (0.1, 3)])
def test_agreement_decides_between_many_instances_and_such_as_both_see_alike(
    bank_of, agreement, chosen
):
    # Three instances on an axis: 2 gained of each. Four on another, of which two have opposite
    # signs for the teacher: 2 + 2 + 2 * 2 / (1 + 2 agreement), which is 4.2 or 7.3.
    guide = torch.eye(GUIDE)[[0] * 3 + [1] * 4]
    guide[5:] *= -1
    own = torch.eye(OWN)[[0] * 3 + [1] * 4]
    bank = bank_of(num_prototypes=1, agreement=agreement)

    bank.fill(own, guide, torch.zeros(7).long(), everything(7))

    assert bank.chosen[0].tolist() == [chosen]


def test_kmeans_keeps_centres_and_the_instances_next_to_them(bank_of):
    # Two groups of three; the centre of a group lies between its members, and has norm 1.
    torch.manual_seed(0)
    rows = F.normalize(
        torch.eye(GUIDE)[[0, 0, 0, 1, 1, 1]] + 0.1 * torch.eye(GUIDE)[:, [5, *range(5)]]
    )
    bank = bank_of(prototypes="kmeans")

    bank.fill(F.normalize(rows[:, :OWN]), rows, torch.zeros(6).long(), everything(6))

    order = bank.guide_maps[0, :2, 0].argsort(descending=True)
    centres = F.normalize(torch.stack([rows[:3].mean(0), rows[3:].mean(0)]))
    torch.testing.assert_close(bank.guide_maps[0, :2][order], centres)
    own_centres = F.normalize(
        torch.stack([F.normalize(rows[part, :OWN]).mean(0) for part in (slice(3), slice(3, 6))])
    )
    torch.testing.assert_close(bank.own_maps[0, :2][order], own_centres)
    assert [place // 3 for place in bank.chosen[0, :2][order].tolist()] == [0, 1]


def test_random_prototypes_are_instances_drawn_from_torchs_state(bank_of):
    own, guide, labels = unit(30, OWN, 1), unit(30, GUIDE, 2), torch.zeros(30).long()
    banks = [bank_of(prototypes="random") for _ in range(3)]

    for bank, seed in zip(banks, (0, 0, 1), strict=True):
        torch.manual_seed(seed)
        bank.fill(own, guide, labels, everything(30))

    chosen = [bank.chosen[0].tolist() for bank in banks]
    assert chosen[0] == chosen[1] != chosen[2]
    torch.testing.assert_close(banks[0].own_maps[0], own[chosen[0]])
    torch.testing.assert_close(banks[0].guide_maps[0], guide[chosen[0]])


def test_a_second_choice_replaces_the_first_wholly(bank_of):
    bank, again = bank_of(), bank_of()
    own, guide = unit(12, OWN, 1), unit(12, GUIDE, 2)
    other = unit(3, OWN, 3), unit(3, GUIDE, 4), torch.tensor([1, 1, 1]), everything(3)
    bank.fill(own, guide, torch.tensor([0, 1] * 6), everything(12))

    bank.fill(*other)
    again.fill(*other)

    assert all(map(torch.equal, bank.buffers(), again.buffers()))
    assert bank.is_filled.sum(1).tolist() == [0, 1, 0]


def test_no_instance_that_counts_leaves_nothing(filled):
    bank, own, guide = filled()

    bank.fill(own, guide, torch.zeros(13).long(), ~everything(13))

    assert not bank.is_filled.any()
    assert not bank.own_maps.any()
    assert not bank.guide_maps.any()

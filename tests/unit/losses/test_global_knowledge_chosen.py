"""Which instances the prototypes of global knowledge are, for people to look at."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.losses.global_knowledge import GlobalKnowledge
from distildet.structures import ImageBatch, Targets


@pytest.fixture
def student():
    torch.manual_seed(0)
    return RetinaNet(
        ClassList(("a", "b", "none")),
        backbone="test_efficientnet",
        image_size=64,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
    )


@pytest.fixture
def loss(student):
    return lambda **options: GlobalKnowledge(student.spec, student.spec, **options)


def shown(count, labels):
    """Return a batch of noise with so many boxes in a row."""
    sizes = torch.tensor([[64, 64]])
    batch = ImageBatch(
        pixels=torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64)[None],
        image_ids=("x",),
    )
    left = torch.arange(count, dtype=torch.float32) * 4
    targets = Targets(
        boxes=torch.stack([left, left, left + 16, left + 20], dim=1),
        labels=torch.tensor(labels, dtype=torch.int64),
        weights=torch.ones(count),
        ignore=torch.zeros(0, 4),
        known_classes=torch.ones(3, dtype=torch.bool),
        origin="human",
    )
    return batch, (targets,)


def test_a_loss_that_has_not_looked_yet_has_chosen_nothing(loss):
    assert loss().chosen() == {}


def test_each_instance_comes_once_in_the_order_of_the_levels(loss):
    fresh = loss(num_prototypes=3)
    # -1: no prototype.
    fresh.banks["P3"].chosen.copy_(torch.tensor([[7, 2, -1], [5, -1, -1], [-1, -1, -1]]))
    fresh.banks["P4"].chosen.copy_(torch.tensor([[0, 7, 4], [5, -1, -1], [-1, -1, -1]]))

    assert fresh.chosen() == {"a": [7, 2, 0, 4], "b": [5]}


@pytest.mark.parametrize("choice", ["pursuit", "kmeans", "random"])
def test_instances_are_numbered_through_all_batches(loss, student, choice):
    prepared = loss(prototypes=choice)
    batches = [shown(4, [1, 0, 1, 1]), shown(0, []), shown(6, [0, 1, 1, 1, 0, 1])]
    with torch.no_grad():
        seen = [
            prepared.observe(student.eval()(batch, want=prepared.preparation.parts), batch, targets)
            for batch, targets in batches
        ]

    torch.manual_seed(0)
    prepared.prepare(seen, seen)

    found = prepared.chosen()
    # Numbers 1, 4 and 8 have class a: three instances, one prototype a level. Seven have class b.
    assert found.keys() == {"a", "b"}
    assert set(found["a"]) <= {1, 4, 8}
    assert set(found["b"]) <= {0, 2, 3, 5, 6, 7, 9}
    assert 1 <= len(found["a"]) <= 2 <= len(found["b"]) <= 4

"""How batches travel."""

from dataclasses import replace

import torch
from torch.utils.data._utils.pin_memory import pin_memory

from distildet.data.workers import _unpack, pack
from distildet.structures import ImageBatch, Targets


def test_a_batch_from_pinned_memory_is_the_same(monkeypatch):
    # No GPU here: the loader's own walk through a batch, with copies in place of pinned memory.
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)
    batch = ImageBatch(
        pixels=torch.rand(1, 3, 4, 4),
        sizes=torch.tensor([[4, 3]]),
        image_sizes=torch.tensor([[8, 6]]),
        image_to_batch=torch.eye(3, dtype=torch.float64)[None],
        image_ids=("a",),
        view_ids=("s/0/a",),
    )
    target = Targets(
        boxes=torch.rand(2, 4),
        labels=torch.tensor([1, 0]),
        weights=torch.ones(2),
        ignore=torch.zeros(0, 4),
        known_classes=torch.tensor([True, False]),
        origin="teacher",
        scores=torch.tensor([0.5, 0.75]),
    )
    hard = replace(target, scores=None)

    images, targets = _unpack(pin_memory(pack((batch, (target, hard)))))

    assert images.pixels.equal(batch.pixels)
    assert images.pixels is not batch.pixels
    assert images.image_to_batch.equal(batch.image_to_batch)
    assert (images.image_ids, images.view_ids) == (("a",), ("s/0/a",))
    assert isinstance(targets, tuple)
    assert targets[0].boxes.equal(target.boxes)
    assert targets[0].origin == "teacher"
    assert targets[0].scores.equal(target.scores)
    assert targets[1].scores is None

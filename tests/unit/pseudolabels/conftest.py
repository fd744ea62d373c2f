"""Labels built by hand and stores that hold them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distildet.classes import ClassList
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections

CLASSES = ClassList(("cat", "dog"))


def _labels_of(boxes=(), scores=(), labels=None, size=(48, 64)) -> StoredLabels:
    count = len(scores)
    drawn = boxes or [(0, 0, 10, 10)] * count
    return StoredLabels(
        detections=Detections(
            boxes=torch.tensor(drawn, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores, dtype=torch.float32),
            labels=torch.tensor([0] * count if labels is None else labels, dtype=torch.int64),
        ),
        image_size=size,
    )


def _make_store(folder: Path, **changes) -> PseudoLabelStore:
    work = {
        "settings": {"teacher": "abc", "image_size": 224},
        "classes": CLASSES,
        "sample_ids": ("a.jpg", "b.jpg", "c.jpg"),
        "shard_size": 2,
    }
    return PseudoLabelStore.create_or_resume(folder, **{**work, **changes})


@pytest.fixture(scope="session")
def classes() -> ClassList:
    return CLASSES


@pytest.fixture(scope="session")
def labels_of() -> Callable[..., StoredLabels]:
    return _labels_of


@pytest.fixture(scope="session")
def make_store() -> Callable[..., PseudoLabelStore]:
    return _make_store


@pytest.fixture
def shards() -> tuple[dict[str, StoredLabels], dict[str, StoredLabels]]:
    """Content of both shards; nothing was found in b.jpg."""
    return (
        {"a.jpg": _labels_of([(1, 2, 3, 4)], [0.9]), "b.jpg": _labels_of()},
        {"c.jpg": _labels_of([(5, 6, 7, 8)], [0.8], [1])},
    )


@pytest.fixture
def full_store(tmp_path, shards) -> PseudoLabelStore:
    store = _make_store(tmp_path / "store")
    store.write_shard(0, shards[0])
    store.write_shard(1, shards[1])
    return store

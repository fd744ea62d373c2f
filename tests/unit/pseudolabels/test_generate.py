import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distildet.data.dataset import Sample
from distildet.errors import DataError
from distildet.pseudolabels.generate import label_images
from distildet.structures import Detections, ImageBatch

SAMPLES = tuple(Sample(id=f"{i}.jpg", path=Path(f"{i}.jpg")) for i in range(5))


def in_batches(samples, count=2):
    """Yield batches without pixels; image i of the work is i + 1 high and 10 wide."""
    for start in range(0, len(samples), count):
        names = tuple(sample.id for sample in samples[start : start + count])
        sizes = torch.tensor([[int(name.removesuffix(".jpg")) + 1, 10] for name in names])
        yield ImageBatch(
            pixels=torch.zeros(len(names), 3, 1, 1),
            sizes=torch.ones_like(sizes),
            image_sizes=sizes,
            image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(names), 1, 1),
            image_ids=names,
        )


class Teacher:
    """Finds one box as high as the image, and notes which images it saw together."""

    def __init__(self, score=0.5) -> None:
        self.score = score
        self.seen: list[tuple[str, ...]] = []

    def __call__(self, batch: ImageBatch) -> list[Detections]:
        self.seen.append(batch.image_ids)
        return [
            Detections(
                boxes=torch.tensor([[0.0, 0.0, 1.0, height]]),
                scores=torch.tensor([self.score]),
                labels=torch.tensor([1]),
            )
            for height in batch.image_sizes[:, 0].tolist()
        ]


@pytest.fixture
def store(tmp_path, make_store):
    return make_store(tmp_path, sample_ids=[sample.id for sample in SAMPLES], shard_size=3)


def test_every_image_gets_its_own_labels(store):
    label_images(store, SAMPLES, batches=in_batches, predict=Teacher())

    read = store.read()
    assert {name: entry.image_size for name, entry in read.items()} == {
        f"{i}.jpg": (i + 1, 10) for i in range(5)
    }
    assert [entry.detections.boxes[0, 3].item() for entry in read.values()] == [1, 2, 3, 4, 5]


def test_batches_end_with_their_shard(store):
    teacher = Teacher()

    label_images(store, SAMPLES, batches=in_batches, predict=teacher)

    assert teacher.seen == [("0.jpg", "1.jpg"), ("2.jpg",), ("3.jpg", "4.jpg")]


def test_only_missing_shards_are_labeled(store):
    label_images(store, SAMPLES, batches=in_batches, predict=Teacher())
    (store.folder / "shards" / "shard-00000.parquet").write_bytes(b"damaged")
    teacher, told = Teacher(), []

    label_images(
        store,
        SAMPLES,
        batches=in_batches,
        predict=teacher,
        progress=lambda *done: told.append(done),
    )

    assert teacher.seen == [("0.jpg", "1.jpg"), ("2.jpg",)]
    assert told == [(4, 5), (5, 5)]


def test_full_store_needs_no_teacher(store):
    label_images(store, SAMPLES, batches=in_batches, predict=Teacher())
    teacher = Teacher()

    label_images(store, SAMPLES, batches=in_batches, predict=teacher)

    assert teacher.seen == []


def test_progress_counts_images(store):
    told = []

    label_images(
        store,
        SAMPLES,
        batches=in_batches,
        predict=Teacher(),
        progress=lambda *done: told.append(done),
    )

    assert told == [(2, 5), (3, 5), (5, 5)]


def test_teacher_without_an_answer_for_an_image_loses_none(store):
    with pytest.raises(ValueError, match="shorter"):
        label_images(
            store, SAMPLES, batches=in_batches, predict=lambda batch: Teacher()(batch)[:-1]
        )

    assert store.missing_shards() == [0, 1]


def test_teacher_that_fails_later_keeps_the_shards_before(store):
    def predict(batch):
        return Teacher(score=float("nan") if "3.jpg" in batch.image_ids else 0.5)(batch)

    with pytest.raises(DataError, match=r"3\.jpg: the teacher returned a score"):
        label_images(store, SAMPLES, batches=in_batches, predict=predict)

    assert store.missing_shards() == [1]


def test_work_killed_anywhere_goes_on_to_the_same_bytes(tmp_path):
    script = Path(__file__).with_name("label_with_kills.py")

    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=60
    )

    # Two shards of two files and a manifest, each opened, permitted, renamed and flushed.
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["killed"] >= 5 * 4
    assert result["different"] == []
    assert result["labeled_again"] == []

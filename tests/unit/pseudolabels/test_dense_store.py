"""What is read is what was written; anything else is missing or refused."""

import gc
import sys
from pathlib import Path

import pytest
import torch

from distildet.classes import ClassList
from distildet.errors import ResourceError, StoreError
from distildet.pseudolabels import dense_store
from distildet.pseudolabels.dense_codes import encode_dense, layout_of
from distildet.pseudolabels.dense_store import DenseStore
from distildet.structures import DensePrediction

CPU = torch.device("cpu")
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
VIEWS = ("s/0/a.jpg", "s/0/b.jpg", "s/0/c.jpg", "s/1/a.jpg", "s/1/b.jpg")
PRIORS = (torch.arange(8.0).reshape(2, 4), torch.ones(1, 4))


def dense_of(*numbers):
    """Predictions of views, all of whose logits are one number."""
    logits = torch.tensor(numbers, dtype=torch.float32)[:, None, None].repeat(1, 3, 2)
    codes = torch.zeros(len(numbers), 3, 4)
    return DensePrediction(
        logits=(logits[:, :2], logits[:, 2:]),
        box_codes=(codes[:, :2], codes[:, 2:]),
        priors=PRIORS,
        activation="sigmoid",
    )


def stored(*numbers):
    return encode_dense(dense_of(*numbers), [str(number) for number in numbers])


def mapped_shards():
    """How many shards this process has mapped into its memory."""
    maps = Path("/proc/self/maps").read_text().splitlines()
    return len({line.split()[-1] for line in maps if "/shard-" in line})


def missing(store):
    return [index for index in range(store.num_shards) if not store.has_shard(index)]


@pytest.fixture
def make_store(tmp_path):
    def make(**changes):
        work = {
            "settings": {"teacher": "abc", "seed": 0},
            "classes": ClassList(("cat", "dog")),
            "view_ids": VIEWS,
            "shard_size": lambda: 2,
        }
        return DenseStore.create_or_resume(tmp_path / "cache", **{**work, **changes})

    return make


@pytest.fixture
def full_store(make_store):
    """View number i says i everywhere."""
    store = make_store()
    store.write_layout(layout_of(dense_of(0), 0))
    store.write_shard(0, stored(0, 1))
    store.write_shard(1, stored(2, 3))
    store.write_shard(2, stored(4))
    return store


def test_views_are_read_in_the_asked_order(full_store, make_store):
    read = make_store().read(["s/1/b.jpg", "s/0/a.jpg", "s/1/b.jpg", "s/0/b.jpg"], CPU)

    assert read.logits[0][:, 0, 0].tolist() == [4, 0, 4, 1]
    assert [level.shape for level in read.logits] == [(4, 2, 2), (4, 1, 2)]
    assert [level.tolist() for level in read.priors] == [level.tolist() for level in PRIORS]


def test_a_full_store_misses_nothing(full_store, make_store):
    store = make_store()

    assert (store.num_views, store.num_shards) == (5, 3)
    assert missing(store) == []
    assert store.views_of(2) == range(4, 5)


def test_a_new_store_misses_everything(make_store):
    store = make_store()

    assert missing(store) == [0, 1, 2]
    assert store.layout is None


@pytest.mark.parametrize("name", ["shard-00001.safetensors", "shard-00001.json"])
def test_a_shard_without_its_file_or_note_is_missing(full_store, make_store, name):
    (full_store.folder / "shards" / name).unlink()

    assert missing(make_store()) == [1]


def test_a_shard_with_a_flipped_bit_is_missing(full_store, make_store):
    path = full_store.folder / "shards" / "shard-00000.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)

    assert missing(make_store()) == [0]


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"work": "x", "sha256": "y"}'])
def test_a_shard_with_a_damaged_note_is_missing(full_store, make_store, note):
    (full_store.folder / "shards" / "shard-00002.json").write_text(note)

    assert missing(make_store()) == [2]


def test_a_damaged_layout_counts_as_none(full_store, make_store):
    (full_store.folder / "layout.safetensors").write_bytes(b"")

    assert make_store().layout is None


def test_a_shard_of_another_work_is_missing(full_store, tmp_path):
    other = DenseStore.create_or_resume(
        tmp_path / "other",
        settings={"teacher": "xyz"},
        classes=ClassList(("cat", "dog")),
        view_ids=VIEWS,
        shard_size=lambda: 2,
    )
    (full_store.folder / "shards").rename(other.folder / "shards")

    assert missing(other) == [0, 1, 2]


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"settings": {"teacher": "xyz", "seed": 0}}, r"settings\.teacher was 'abc' and is 'xyz'"),
        ({"settings": {"teacher": "abc", "seed": 1}}, r"settings\.seed was 0 and is 1"),
        ({"view_ids": VIEWS[:3]}, "num_images was 5 and is 3"),
        ({"view_ids": VIEWS[::-1]}, "samples_fingerprint was"),
        ({"classes": ClassList(("dog", "cat"))}, "classes was"),
    ],
)
def test_other_work_in_the_same_folder_is_refused(full_store, make_store, changes, difference):
    with pytest.raises(StoreError, match=f"holds predictions of another teacher.*{difference}"):
        make_store(**changes)


def test_a_store_keeps_the_size_of_its_shards(full_store, make_store):
    assert make_store(shard_size=lambda: 3).shard_size == 2


def test_another_process_reads_what_one_has_begun(full_store):
    other = DenseStore(full_store.folder, full_store.manifest, VIEWS)

    assert missing(other) == []
    assert other.read(["s/0/b.jpg"], CPU).logits[1].flatten().tolist() == [1, 1]


def test_opening_what_another_process_has_begun_writes_nothing(full_store, tmp_path):
    # As on a file system that does not show yet what the other process wrote.
    DenseStore(tmp_path / "late", full_store.manifest, VIEWS)

    assert not (tmp_path / "late").exists()


@ON_LINUX
def test_a_closed_store_holds_no_shard_and_can_be_read_again(full_store):
    full_store.read(["s/0/a.jpg", "s/1/a.jpg"], CPU)
    held = mapped_shards()

    full_store.close()

    assert (held, mapped_shards()) == (2, 0)
    assert full_store.read(["s/0/b.jpg"], CPU).logits[1].flatten().tolist() == [1, 1]


@ON_LINUX
def test_a_store_that_nobody_has_any_more_holds_no_shard(make_store):
    # Without help of the garbage collector, which would come at some later time.
    gc.disable()
    try:
        store = make_store()
        store.write_layout(layout_of(dense_of(0), 0))
        store.write_shard(0, stored(0, 1))
        store.read(["s/0/a.jpg"], CPU)
        held = mapped_shards()
        del store
        left = mapped_shards()
    finally:
        gc.enable()

    assert (held, left) == (1, 0)


@ON_LINUX
def test_only_the_shards_read_last_stay_open(full_store, monkeypatch):
    monkeypatch.setattr(dense_store, "_OPEN_SHARDS", 2)

    read = full_store.read(["s/0/a.jpg", "s/0/c.jpg", "s/1/b.jpg"], CPU)

    assert read.logits[1].flatten().tolist() == [0, 0, 2, 2, 4, 4]
    assert mapped_shards() == 2


def test_the_same_predictions_give_the_same_bytes(full_store):
    path = full_store.folder / "shards" / "shard-00000.safetensors"
    before = path.read_bytes()

    full_store.write_shard(0, stored(0, 1))

    assert path.read_bytes() == before


@pytest.mark.parametrize("view_ids", [[], ["s/2/a.jpg"], ["s/0/a.jpg", "t/0/a.jpg"]])
def test_views_that_are_not_stored_are_refused(full_store, view_ids):
    with pytest.raises(StoreError, match="has nothing of the views"):
        full_store.read(view_ids, CPU)


def test_a_shard_that_vanished_is_named(full_store, make_store):
    store = make_store()
    (store.folder / "shards" / "shard-00000.safetensors").unlink()

    with pytest.raises(StoreError, match=r"shard-00000\.safetensors: cannot be read any more"):
        store.read(["s/0/a.jpg"], CPU)


def test_a_full_disk_leaves_earlier_shards_alone(make_store, small_disk):
    store = make_store(shard_size=lambda: 1)
    store.write_shard(0, stored(0))
    large = {"logits": torch.zeros(1, 1000, dtype=torch.float16)}

    with small_disk(), pytest.raises(ResourceError, match="the disk took no more"):
        store.write_shard(1, large)

    assert missing(store) == [1, 2, 3, 4]

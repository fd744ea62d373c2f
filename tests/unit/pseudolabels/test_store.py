import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distildet.errors import DataError, ResourceError, StoreError
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
SCORES = st.floats(0, 1, width=32)


@st.composite
def stored_labels(draw) -> StoredLabels:
    count = draw(st.integers(0, 4))
    return StoredLabels(
        detections=Detections(
            boxes=torch.from_numpy(draw(arrays(np.float32, (count, 4), elements=FINITE))),
            scores=torch.from_numpy(draw(arrays(np.float32, count, elements=SCORES))),
            labels=torch.from_numpy(draw(arrays(np.int64, count, elements=st.integers(0, 1)))),
        ),
        image_size=draw(st.tuples(st.integers(1, 100_000), st.integers(1, 100_000))),
    )


def bits(entry: StoredLabels):
    found = entry.detections
    columns = (found.boxes, found.scores, found.labels)
    shapes = [(column.dtype, tuple(column.shape)) for column in columns]
    return shapes, [column.numpy().tobytes() for column in columns], entry.image_size


def content_of(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_labels_are_read_as_they_were_written(full_store, shards):
    read = PseudoLabelStore.open(full_store.folder).read()

    assert list(read) == ["a.jpg", "b.jpg", "c.jpg"]
    assert {name: bits(read[name]) for name in read} == {
        name: bits(entry) for name, entry in {**shards[0], **shards[1]}.items()
    }


@settings(max_examples=30)  # each is flushed to the disk
@given(entries=st.lists(stored_labels(), min_size=1, max_size=3))
def test_every_float32_survives_to_the_last_bit(entries, tmp_path_factory, make_store):
    named = {f"{i}.png": entry for i, entry in enumerate(entries)}
    folder = tmp_path_factory.mktemp("store")
    store = make_store(folder, sample_ids=list(named), shard_size=len(named))

    store.write_shard(0, named)

    assert [bits(entry) for entry in store.read().values()] == [bits(entry) for entry in entries]


@pytest.mark.parametrize(
    "name", ["ä 🏠\n'x\".jpg", "x" * 255, "sub/b.jpg", "bytes-\udcff\udc80.jpg"]
)
def test_names_survive(name, tmp_path, make_store, labels_of):
    store = make_store(tmp_path, sample_ids=[name])

    store.write_shard(0, {name: labels_of()})

    assert list(make_store(tmp_path, sample_ids=[name]).read()) == [name]


def test_half_precision_is_stored_as_its_float32_value(tmp_path, make_store):
    found = Detections(
        boxes=torch.tensor([[0, 0, 1.5, 2.5]], dtype=torch.bfloat16),
        scores=torch.tensor([0.3], dtype=torch.bfloat16),
        labels=torch.tensor([1], dtype=torch.int32),
    )
    store = make_store(tmp_path, sample_ids=["a"])

    store.write_shard(0, {"a": StoredLabels(detections=found, image_size=(3, 2))})

    # 0.3 in bfloat16 is 77/256.
    read = store.read()["a"].detections
    assert (read.boxes.tolist(), read.scores.tolist()) == ([[0, 0, 1.5, 2.5]], [77 / 256])


def test_shards_are_plain_parquet(full_store):
    table = pq.read_table(full_store.folder / "shards" / "shard-00000.parquet")

    assert table.to_pylist() == [
        {
            "id": b"a.jpg",
            "height": 48,
            "width": 64,
            "boxes": [1, 2, 3, 4],
            "scores": [float(np.float32(0.9))],
            "labels": [0],
        },
        {"id": b"b.jpg", "height": 48, "width": 64, "boxes": [], "scores": [], "labels": []},
    ]


def test_image_without_detections_differs_from_one_not_processed(tmp_path, make_store, shards):
    store = make_store(tmp_path)

    store.write_shard(0, shards[0])

    assert store.missing_shards() == [1]
    with pytest.raises(StoreError, match=r"1 of 2 shards are missing.*shard-00001\.parquet"):
        store.read()


def test_image_without_detections_has_an_entry(full_store):
    assert len(full_store.read()["b.jpg"].detections) == 0


def test_store_of_no_images_is_complete(tmp_path, make_store):
    store = make_store(tmp_path, sample_ids=[])

    assert (store.num_shards, store.missing_shards(), store.read()) == (0, [], {})


@pytest.mark.parametrize(
    ("images", "shard_size", "shards"), [(1, 2, 1), (2, 2, 1), (3, 2, 2), (4, 2, 2), (5, 1, 5)]
)
def test_last_shard_may_be_smaller(images, shard_size, shards, tmp_path, make_store):
    names = [str(i) for i in range(images)]

    store = make_store(tmp_path, sample_ids=names, shard_size=shard_size)

    assert store.num_shards == shards


def test_same_labels_give_the_same_bytes(full_store, tmp_path, make_store, shards):
    other = make_store(tmp_path / "other")
    other.write_shard(1, shards[1])
    other.write_shard(0, shards[0])

    assert content_of(other.folder) == content_of(full_store.folder)


def test_opening_a_store_again_changes_nothing(full_store, make_store):
    before = content_of(full_store.folder)

    again = make_store(full_store.folder)

    assert again.missing_shards() == []
    assert content_of(full_store.folder) == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("shard-00000.parquet", lambda content: content[:-1]),
        ("shard-00000.parquet", lambda content: content[: len(content) // 2]),
        ("shard-00000.parquet", lambda _: b""),
        ("shard-00000.parquet", lambda content: content.replace(b"a.jpg", b"b.jpg")),
        ("shard-00000.json", lambda _: b""),
        ("shard-00000.json", lambda content: content[:-4]),
        ("shard-00000.json", lambda _: b"[]"),
        ("shard-00000.json", lambda _: b"{}"),
        ("shard-00000.json", lambda _: b"\xff\xfe"),
    ],
)
def test_damaged_shard_counts_as_missing_and_is_made_again(name, damage, full_store, shards):
    before = content_of(full_store.folder)
    path = full_store.folder / "shards" / name
    path.write_bytes(damage(path.read_bytes()))

    missing = full_store.missing_shards()
    with pytest.raises(StoreError, match=r"1 of 2 shards .* damaged.*shard-00000\.parquet"):
        full_store.read()
    full_store.write_shard(0, shards[0])

    assert missing == [0]
    assert content_of(full_store.folder) == before


@pytest.mark.parametrize("name", ["shard-00001.parquet", "shard-00001.json"])
def test_shard_with_only_one_of_its_files_counts_as_missing(name, full_store):
    (full_store.folder / "shards" / name).unlink()

    assert full_store.missing_shards() == [1]


def test_shard_of_another_teacher_counts_as_missing(full_store, tmp_path, make_store, shards):
    other = make_store(tmp_path / "other", settings={"teacher": "xyz"})
    other.write_shard(0, shards[0])

    (full_store.folder / "shards").rename(tmp_path / "kept")
    (other.folder / "shards").rename(full_store.folder / "shards")

    assert full_store.missing_shards() == [0, 1]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settings": {"teacher": "xyz", "image_size": 224}}, "'abc' and is 'xyz'"),
        ({"settings": {"teacher": "abc", "image_size": 96}}, "image_size was 224 and is 96"),
        ({"sample_ids": ("a.jpg", "b.jpg", "d.jpg")}, "samples_fingerprint was"),
        ({"shard_size": 3}, "shard_size was 2 and is 3"),
    ],
)
def test_other_work_in_the_same_folder_is_refused(changes, told, full_store, make_store):
    before = content_of(full_store.folder)

    with pytest.raises(StoreError, match=told):
        make_store(full_store.folder, **changes)

    assert content_of(full_store.folder) == before


def test_opening_a_folder_without_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match="not a pseudo-label store"):
        PseudoLabelStore.open(tmp_path)


@pytest.mark.parametrize("place", ["", "shards"])
def test_leftovers_of_a_killed_writer_are_removed(place, full_store, make_store):
    before = content_of(full_store.folder)
    (full_store.folder / place / ".partial-x1y2").write_bytes(b"PAR1 half of a sh")

    make_store(full_store.folder)

    assert content_of(full_store.folder) == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", range(4))
def test_box_that_is_not_finite_is_refused_and_not_stored(
    value, side, tmp_path, make_store, labels_of
):
    store = make_store(tmp_path)
    box = [0.0, 0.0, 1.0, 1.0]
    box[side] = value

    with pytest.raises(DataError, match=r"b\.jpg: the teacher returned a box that is not finite"):
        store.write_shard(0, {"a.jpg": labels_of(), "b.jpg": labels_of([box], [0.5])})

    assert list(content_of(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -0.01, 1.01])
def test_score_out_of_range_is_refused_and_not_stored(score, tmp_path, make_store, labels_of):
    store = make_store(tmp_path)

    with pytest.raises(DataError, match=r"a\.jpg: .* a score that is not in 0\.\.1"):
        store.write_shard(0, {"a.jpg": labels_of(scores=[0.5, score])})

    assert list(content_of(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize("label", [-1, 2])
def test_label_that_is_no_class_is_refused_and_not_stored(label, tmp_path, make_store, labels_of):
    store = make_store(tmp_path)

    with pytest.raises(DataError, match=r"a\.jpg: .* a label that is not in 0\.\.1\. Nothing"):
        store.write_shard(0, {"a.jpg": labels_of(scores=[0.5], labels=[label])})

    assert list(content_of(tmp_path)) == ["manifest.json"]


def test_full_disk_leaves_earlier_shards_and_no_half_one(full_store, shards, small_disk):
    (full_store.folder / "shards" / "shard-00000.json").unlink()
    before = content_of(full_store.folder)

    with pytest.raises(ResourceError, match=r"shard-00000\.parquet: the disk"), small_disk():
        full_store.write_shard(0, shards[0])

    assert content_of(full_store.folder) == before
    assert full_store.missing_shards() == [0]


def test_the_fingerprint_tells_other_labels(full_store, labels_of):
    before = full_store.fingerprint()

    full_store.write_shard(1, {"c.jpg": labels_of([(5, 6, 7, 8)], [0.7], [1])})

    assert full_store.fingerprint() != before
    full_store.write_shard(1, {"c.jpg": labels_of([(5, 6, 7, 8)], [0.8], [1])})
    assert full_store.fingerprint() == before


def test_a_store_that_is_not_complete_has_no_fingerprint(tmp_path, make_store, shards):
    store = make_store(tmp_path / "store")
    store.write_shard(1, shards[1])

    with pytest.raises(StoreError, match=r"1 of 2 shards are missing or damaged, the first being"):
        store.fingerprint()
    assert list(store.read_shard(1)) == ["c.jpg"]

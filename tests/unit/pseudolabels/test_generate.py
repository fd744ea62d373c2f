import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import LoadedBatch
from distildet.errors import DataError, GateError, ResourceError
from distildet.ops.processes import rank
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.generate import ROUNDS_AT_ONCE, label_images
from distildet.pseudolabels.quarantine import QUARANTINE, Quarantine
from distildet.pseudolabels.store import PseudoLabelStore
from distildet.structures import Detections, ImageBatch

SAMPLES = tuple(Sample(id=f"{i}.jpg", path=Path(f"{i}.jpg")) for i in range(5))


def in_pairs(samples):
    """Put two samples into each batch."""
    return [samples[start : start + 2] for start in range(0, len(samples), 2)]


def load(plan, bad=()):
    """Yield batches without pixels; image i of the work is i + 1 high and 10 wide."""
    for samples in plan:
        names = tuple(sample.id for sample in samples if sample.id not in bad)
        heights = [int(name.removesuffix(".jpg")) + 1 for name in names]
        sizes = torch.tensor([[height, 10] for height in heights]).reshape(-1, 2)
        yield LoadedBatch(
            images=ImageBatch(
                pixels=torch.zeros(len(names), 3, 1, 1),
                sizes=torch.ones_like(sizes),
                image_sizes=sizes,
                image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(names), 1, 1),
                image_ids=names,
            ),
            faults={
                sample.id: DataError(f"{sample.id}: damaged")
                for sample in samples
                if sample.id in bad
            },
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
    label_images(store, SAMPLES, plan=in_pairs, load=load, predict=Teacher())

    read = store.read()
    assert {name: entry.image_size for name, entry in read.items()} == {
        f"{i}.jpg": (i + 1, 10) for i in range(5)
    }
    assert [entry.detections.boxes[0, 3].item() for entry in read.values()] == [1, 2, 3, 4, 5]


def test_batches_end_with_their_shard(store):
    teacher = Teacher()

    label_images(store, SAMPLES, plan=in_pairs, load=load, predict=teacher)

    assert teacher.seen == [("0.jpg", "1.jpg"), ("2.jpg",), ("3.jpg", "4.jpg")]


def test_one_loader_serves_several_shards(store):
    plans = []

    def load_noted(plan):
        plans.append([tuple(sample.id for sample in batch) for batch in plan])
        return load(plan)

    label_images(store, SAMPLES, plan=in_pairs, load=load_noted, predict=Teacher())

    assert plans == [[("0.jpg", "1.jpg"), ("2.jpg",), ("3.jpg", "4.jpg")]]


def test_more_shards_than_one_loader_serves_are_all_made(tmp_path, make_store):
    names = [f"{i}.jpg" for i in range(ROUNDS_AT_ONCE + 1)]
    store = make_store(tmp_path, sample_ids=names, shard_size=1)
    samples = [Sample(id=name, path=Path(name)) for name in names]
    told = []

    label_images(
        store,
        samples,
        plan=in_pairs,
        load=load,
        predict=Teacher(),
        progress=lambda *done: told.append(done),
    )

    assert list(store.read()) == names
    assert told == [(done, len(names)) for done in range(1, len(names) + 1)]


def test_only_missing_shards_are_labeled(store):
    label_images(store, SAMPLES, plan=in_pairs, load=load, predict=Teacher())
    (store.folder / "shards" / "shard-00000.parquet").write_bytes(b"damaged")
    teacher, told = Teacher(), []

    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=load,
        predict=teacher,
        progress=lambda *done: told.append(done),
    )

    assert teacher.seen == [("0.jpg", "1.jpg"), ("2.jpg",)]
    assert told == [(4, 5), (5, 5)]


def test_full_store_needs_no_teacher(store):
    label_images(store, SAMPLES, plan=in_pairs, load=load, predict=Teacher())
    teacher = Teacher()

    label_images(store, SAMPLES, plan=in_pairs, load=load, predict=teacher)

    assert teacher.seen == []


def test_progress_counts_images(store):
    told = []

    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=load,
        predict=Teacher(),
        progress=lambda *done: told.append(done),
    )

    assert told == [(2, 5), (3, 5), (5, 5)]


def test_teacher_without_an_answer_for_an_image_loses_none(store):
    with pytest.raises(ValueError, match="shorter"):
        label_images(
            store, SAMPLES, plan=in_pairs, load=load, predict=lambda batch: Teacher()(batch)[:-1]
        )

    assert store.missing_shards() == [0, 1]


@pytest.mark.parametrize(
    ("score", "message"), [(float("nan"), "not finite"), (2.0, r"a score that is not in 0\.\.1")]
)
def test_teacher_that_fails_later_keeps_the_shards_before(store, score, message):
    def predict(batch):
        return Teacher(score=score if "3.jpg" in batch.image_ids else 0.5)(batch)

    with pytest.raises(DataError, match=rf"3\.jpg: the teacher returned .*{message}"):
        label_images(store, SAMPLES, plan=in_pairs, load=load, predict=predict)

    assert store.missing_shards() == [1]


def unanswered_in(bad):
    """Return a teacher that has no answer for one image."""

    def predict(batch):
        return [
            replace(one, fault=f"{name}: not processed" if name == bad else None)
            for name, one in zip(batch.image_ids, Teacher()(batch), strict=True)
        ]

    return predict


def test_an_image_without_an_answer_ends_the_work_where_nothing_is_set_aside(store):
    with pytest.raises(DataError, match=r"^3\.jpg: not processed$"):
        label_images(store, SAMPLES, plan=in_pairs, load=load, predict=unanswered_in("3.jpg"))


def test_an_image_without_an_answer_is_set_aside_and_not_stored(store, quarantine):
    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=load,
        predict=unanswered_in("3.jpg"),
        quarantine=quarantine,
    )

    bad = json.loads(quarantine.path.read_text())
    assert (bad["file"], bad["stage"], bad["error"]) == ("3.jpg", "teacher", "3.jpg: not processed")
    assert list(store.read()) == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]


@pytest.fixture
def quarantine(tmp_path):
    return Quarantine(tmp_path / QUARANTINE, SAMPLES, max_bad_fraction=0.4)


def damaged(*bad):
    """Return a loader to which some images are damaged."""
    return partial(load, bad=bad)


def not_finite_in(bad):
    """Return a teacher whose box is not finite in one image."""

    def predict(batch):
        found = Teacher()(batch)
        for name, detections in zip(batch.image_ids, found, strict=True):
            detections.boxes[:, 0] = torch.nan if name == bad else 0.0
        return found

    return predict


@pytest.mark.parametrize(
    ("bad", "seen"),
    [
        (("0.jpg",), [("1.jpg",), ("2.jpg",), ("3.jpg", "4.jpg")]),
        (("1.jpg",), [("0.jpg",), ("2.jpg",), ("3.jpg", "4.jpg")]),
        (("2.jpg",), [("0.jpg", "1.jpg"), ("3.jpg", "4.jpg")]),
        (("0.jpg", "1.jpg"), [("2.jpg",), ("3.jpg", "4.jpg")]),
        (("3.jpg", "4.jpg"), [("0.jpg", "1.jpg"), ("2.jpg",)]),
    ],
)
def test_images_that_cannot_be_decoded_are_put_into_quarantine(store, quarantine, bad, seen):
    teacher, told = Teacher(), []

    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=damaged(*bad),
        predict=teacher,
        progress=lambda *done: told.append(done),
        quarantine=quarantine,
    )

    assert teacher.seen == seen
    assert list(store.read()) == [s.id for s in SAMPLES if s.id not in bad]
    assert all(name in quarantine for name in bad)
    assert len(quarantine) == len(bad)
    assert told[-1] == (5, 5)


def test_images_with_boxes_that_are_not_finite_are_put_into_quarantine(store, quarantine):
    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=load,
        predict=not_finite_in("3.jpg"),
        quarantine=quarantine,
    )

    assert list(store.read()) == ["0.jpg", "1.jpg", "2.jpg", "4.jpg"]
    assert json.loads(quarantine.path.read_text()) == {
        "file": "3.jpg",
        "stage": "teacher",
        "error": "3.jpg: the teacher returned boxes or scores that are not finite. Look at the "
        "teacher's weights, or leave this image out.",
        "bytes": None,
        "sha256": None,
    }


def test_a_sound_image_without_boxes_differs_from_one_in_quarantine(store, quarantine):
    nothing = Detections(
        boxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0, dtype=torch.int64)
    )

    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=damaged("1.jpg"),
        predict=lambda batch: [nothing] * len(batch),
        quarantine=quarantine,
    )

    assert len(store.read()["0.jpg"].detections) == 0
    assert "1.jpg" not in store.read()


def test_more_bad_images_than_accepted_end_the_work_after_their_shard(store, tmp_path):
    quarantine = Quarantine(tmp_path / QUARANTINE, SAMPLES, max_bad_fraction=0.2)

    with pytest.raises(
        GateError, match=r"quarantine\.jsonl: lists 2 of 5 images .* Accepted are 1"
    ):
        label_images(
            store,
            SAMPLES,
            plan=in_pairs,
            load=damaged("0.jpg", "2.jpg"),
            predict=Teacher(),
            quarantine=quarantine,
        )

    assert store.missing_shards() == [1]
    assert len(quarantine.path.read_text().splitlines()) == 2


def test_too_many_bad_images_are_told_again_without_new_work(store, tmp_path):
    tolerant = Quarantine(tmp_path / QUARANTINE, SAMPLES, max_bad_fraction=1.0)
    bad = damaged("0.jpg", "2.jpg")
    label_images(store, SAMPLES, plan=in_pairs, load=bad, predict=Teacher(), quarantine=tolerant)
    strict, teacher = Quarantine(tmp_path / QUARANTINE, SAMPLES, max_bad_fraction=0.2), Teacher()

    with pytest.raises(GateError, match="lists 2 of 5 images"):
        label_images(store, SAMPLES, plan=in_pairs, load=bad, predict=teacher, quarantine=strict)

    assert teacher.seen == []


def test_shards_whose_bad_images_were_mended_are_made_again(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # SAMPLES are relative
    first = Quarantine(tmp_path / QUARANTINE, SAMPLES, max_bad_fraction=1.0)
    label_images(
        store,
        SAMPLES,
        plan=in_pairs,
        load=damaged("1.jpg", "3.jpg"),
        predict=Teacher(),
        quarantine=first,
    )
    (tmp_path / "3.jpg").write_bytes(b"mended")
    second, teacher = Quarantine(tmp_path / QUARANTINE, SAMPLES, max_bad_fraction=1.0), Teacher()

    label_images(store, SAMPLES, plan=in_pairs, load=load, predict=teacher, quarantine=second)

    assert teacher.seen == [("3.jpg", "4.jpg")]
    assert list(store.read()) == ["0.jpg", "2.jpg", "3.jpg", "4.jpg"]
    assert len(second.path.read_text().splitlines()) == 1


def test_an_error_that_no_image_causes_alone_ends_the_work(store, quarantine):
    def predict(batch):
        raise DataError("the teacher refuses")

    with pytest.raises(DataError, match="the teacher refuses"):
        label_images(
            store, SAMPLES, plan=in_pairs, load=load, predict=predict, quarantine=quarantine
        )

    assert len(quarantine) == 0


def test_work_killed_anywhere_goes_on_to_the_same_bytes(tmp_path):
    script = Path(__file__).with_name("label_with_kills.py")

    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=60
    )

    # Two shards of two files, a manifest and the quarantine, each opened, permitted, renamed and
    # flushed.
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["killed"] >= 6 * 4
    assert result["different"] == []
    assert result["labeled_again"] == []


@pytest.fixture
def work_in(in_processes, make_store):
    """Label in a folder with several processes; return by rank None or the error."""

    def run(folder, count, *, predict=None, bad=(), max_bad_fraction=0.8):
        def label():
            label_images(
                on_first(
                    lambda: make_store(
                        folder / "store", sample_ids=[s.id for s in SAMPLES], shard_size=3
                    )
                ),
                SAMPLES,
                plan=in_pairs,
                load=damaged(*bad),
                predict=predict or not_finite_in("3.jpg"),
                quarantine=None
                if max_bad_fraction is None
                else Quarantine(folder / QUARANTINE, SAMPLES, max_bad_fraction=max_bad_fraction),
            )

        return in_processes(label, count)

    return run


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("bad", [(), ("1.jpg",), ("0.jpg", "1.jpg"), ("2.jpg", "4.jpg")])
@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_write_the_bytes_of_one(work_in, tmp_path, bad, count):
    assert work_in(tmp_path / "one", 1, bad=bad) == [None]

    assert work_in(tmp_path / "several", count, bad=bad) == [None] * count

    assert content_of(tmp_path / "several") == content_of(tmp_path / "one")


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3)])
def test_work_goes_on_with_another_number_of_processes(work_in, tmp_path, before, after):
    work_in(tmp_path / "whole", 1, bad=("1.jpg",))
    work_in(tmp_path / "cut", before, bad=("1.jpg",))
    (tmp_path / "cut" / "store" / "shards" / "shard-00001.json").unlink()

    assert work_in(tmp_path / "cut", after, bad=("1.jpg",)) == [None] * after

    assert content_of(tmp_path / "cut") == content_of(tmp_path / "whole")


@pytest.mark.parametrize("stop", ["2.jpg", "3.jpg"])
def test_an_error_in_one_process_ends_all_and_keeps_the_shards_before(work_in, tmp_path, stop):
    def predict(batch):
        if stop in batch.image_ids:
            raise ResourceError(f"{stop} in process {rank()}")
        return Teacher()(batch)

    results = work_in(tmp_path, 2, predict=predict)

    # Batches 0 1, 2, 3 4: the second and third of the first round are those of process 1 and 0.
    process = {"2.jpg": 1, "3.jpg": 0}[stop]
    assert [str(error) for error in results] == [f"{stop} in process {process}"] * 2
    assert [type(error) for error in results] == [ResourceError] * 2
    store = PseudoLabelStore.open(tmp_path / "store")
    assert store.missing_shards() == {"2.jpg": [0, 1], "3.jpg": [1]}[stop]


def test_an_image_that_one_process_cannot_decode_ends_all_where_none_may_be_bad(work_in, tmp_path):
    results = work_in(tmp_path, 2, bad=("2.jpg",), max_bad_fraction=None)

    assert [str(error) for error in results] == ["2.jpg: damaged"] * 2
    assert [type(error) for error in results] == [DataError] * 2


def test_too_many_bad_images_end_all_processes(work_in, tmp_path):
    results = work_in(tmp_path, 2, bad=("0.jpg", "2.jpg", "4.jpg"), max_bad_fraction=0.2)

    assert [type(error) for error in results] == [GateError] * 2
    assert "lists 2 of 5 images" in str(results[1])
    assert PseudoLabelStore.open(tmp_path / "store").missing_shards() == [1]


def test_a_full_disk_of_the_process_that_writes_ends_all(work_in, tmp_path, small_disk):
    with small_disk():
        results = work_in(tmp_path, 2)

    assert [type(error) for error in results] == [ResourceError] * 2
    assert "the disk took no more" in str(results[1])


def test_progress_of_several_processes_reaches_the_end(in_processes, make_store, tmp_path):
    def label():
        told = []
        label_images(
            on_first(
                lambda: make_store(tmp_path, sample_ids=[s.id for s in SAMPLES], shard_size=3)
            ),
            SAMPLES,
            plan=in_pairs,
            load=load,
            predict=Teacher(),
            progress=lambda *done: told.append(done),
        )
        return told

    # Process 0 has the batches 0 1 and 3 4.
    assert in_processes(label)[0] == [(4, 5), (5, 5)]

"""Fused stores: which images they have, what they depend on, and how they are made."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distildet.errors import DataError
from distildet.ops.shared_work import on_first
from distildet.pseudolabels.fuse import (
    Fusion,
    Source,
    fuse_detections,
    fuse_shard,
    fuse_stores,
    fused_settings,
)

BOTH = torch.tensor([True, True])


class Half:
    """A calibration that halves scores."""

    def __call__(self, scores, labels):
        return scores / 2

    def as_json(self, classes):
        return {"factor": 0.5}


@pytest.fixture
def sources(tmp_path, make_store, shards, labels_of):
    """Two teachers; the second could not label c.jpg and finds a dog in a.jpg."""
    stores = [make_store(tmp_path / name) for name in ("one", "two")]
    stores[0].write_shard(0, shards[0])
    stores[0].write_shard(1, shards[1])
    dog = labels_of([(1, 2, 3, 4)], [0.5], [1])
    stores[1].write_shard(0, {"a.jpg": dog, "b.jpg": labels_of()})
    stores[1].write_shard(1, {})
    return [Source(store=store, known=BOTH) for store in stores]


@pytest.fixture
def fused(make_store, sources, classes):
    def fuse(folder):
        settings = fused_settings(sources, Fusion(), classes)
        store = on_first(lambda: make_store(folder, settings=settings))
        fuse_stores(store, sources, Fusion(), between=lambda done: None)
        return store

    return fuse


def test_an_image_that_one_teacher_could_not_label_has_no_entry(fused, tmp_path):
    assert list(fused(tmp_path / "store").read()) == ["a.jpg", "b.jpg"]


def test_the_best_of_two_classes_of_one_box_stays(fused, tmp_path):
    found = fused(tmp_path / "store").read()["a.jpg"].detections

    # Each knows both classes: 0.9 / 2 for the cat, 0.5 / 2 for the dog of the very same box.
    assert found.labels.tolist() == [0]
    torch.testing.assert_close(found.scores, torch.tensor([0.45]))


def test_calibrated_scores_are_fused(labels_of, sources):
    entry = labels_of([(0, 0, 10, 10)], [0.8])
    halved = replace(sources[0], calibration=Half())

    found = fuse_detections([entry.detections] * 2, [halved, sources[1]], Fusion())

    # Half of 0.8, and 0.8, on average.
    torch.testing.assert_close(found.scores, torch.tensor([0.6]))


def test_boxes_of_one_teacher_stay_as_they_are(labels_of, sources):
    entry = labels_of([(0, 0, 10, 10), (0, 0, 10, 9)], [0.8, 0.6], [0, 1])

    fused = fuse_shard([{"a": entry}], [replace(sources[0], calibration=Half())], Fusion())

    torch.testing.assert_close(fused["a"].detections.scores, torch.tensor([0.4, 0.3]))
    assert torch.equal(fused["a"].detections.boxes, entry.detections.boxes)


@pytest.mark.parametrize(
    ("method", "scores"),
    [("wbf", [0.7]), ("nms", [0.8])],
)
def test_the_method_is_chosen(labels_of, sources, method, scores):
    found = [
        labels_of([(0, 0, 10, 10)], [0.8]).detections,
        labels_of([(0, 0, 10, 9)], [0.6]).detections,
    ]

    fused = fuse_detections(found, sources, Fusion(method=method))

    torch.testing.assert_close(fused.scores, torch.tensor(scores))


@pytest.mark.parametrize(
    "change",
    [
        {"trust": 2.0},
        {"known": torch.tensor([True, False])},
        {"calibration": Half()},
    ],
)
def test_settings_tell_every_difference(sources, classes, change):
    other = [replace(sources[0], **change), sources[1]]

    assert fused_settings(other, Fusion(), classes) != fused_settings(sources, Fusion(), classes)


def test_settings_tell_other_labels_and_another_way(sources, classes, labels_of):
    before = fused_settings(sources, Fusion(), classes)

    assert fused_settings(sources, Fusion(iou=0.6), classes) != before
    sources[1].store.write_shard(1, {"c.jpg": labels_of()})
    assert fused_settings(sources, Fusion(), classes) != before


def test_an_interrupted_fusion_keeps_what_was_fused(make_store, sources, classes, tmp_path):
    store = make_store(tmp_path / "s", settings=fused_settings(sources, Fusion(), classes))

    def stop(done):
        if done:
            raise DataError("stopped")

    with pytest.raises(DataError, match="stopped"):
        fuse_stores(store, sources, Fusion(), between=stop)

    assert store.missing_shards() == [1]


def test_two_processes_fuse_to_the_bytes_of_one(fused, in_processes, tmp_path):
    fused(tmp_path / "by-one")

    assert in_processes(lambda: fused(tmp_path / "by-two").num_shards) == [2, 2]
    assert content_of(tmp_path / "by-two") == content_of(tmp_path / "by-one")


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.slow
def test_work_killed_anywhere_goes_on_to_the_same_bytes(tmp_path):
    script = Path(__file__).with_name("label_together_with_kills.py")

    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=300
    )

    # Two teachers and their fusion, each a manifest and two shards of two files, each opened,
    # permitted, renamed and flushed; three lists of a bad image.
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["killed"] >= (3 * 5 + 3) * 4
    assert result["different"] == []

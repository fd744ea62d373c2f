"""The store is filled once, by one process or several, whatever stops them."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from distildet.errors import DataError, InterruptedRunError, ResourceError, StoreError
from distildet.ops.processes import rank
from distildet.recipes import teacher_cache
from distildet.recipes.teacher_cache import CACHE
from distildet.structures import DENSE


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_size_is_told_beforehand_and_exact(cached, listener, stage_folder):
    cached()

    shard = stage_folder / CACHE / "shards" / "shard-00000.safetensors"
    # Levels of 4x4 and 2x2 locations with 9 anchors, each with 2 classes and 4 codes of 2 bytes.
    view_bytes = (16 + 4) * 9 * 6 * 2
    assert listener.messages == [
        f"Teacher cache: 10 views of {view_bytes / 1e6:.3g} MB take 2.16e-05 GB in "
        f"{stage_folder / CACHE} until the stage is done."
    ]
    # The header of the file is short.
    assert 0 < shard.stat().st_size - 10 * view_bytes < 300


@pytest.mark.parametrize(
    ("steps", "end"),
    [
        # Nine images of five.
        (
            3,
            "1.8 passes over the images. Remove teacher_cache, or set its views to at most 1, "
            "fewer than the passes of this stage.",
        ),
        (1, "0.6 passes over the images. Remove teacher_cache."),
    ],
)
def test_a_cache_that_saves_nothing_is_told(cached, listener, steps, end):
    cached(steps=steps)

    assert listener.messages[0] == (
        f"Teacher cache: no view comes twice, so that nothing is saved: the stage makes {end}"
    )


def test_progress_ends_with_the_last_view(cached, listener):
    cached()

    assert listener.counts == [("01-train/teacher-cache", n, 10) for n in (2, 4, 6, 8, 10)]


def test_a_finished_cache_is_read_and_not_made_again(cached, listener, stage_folder):
    cached()
    before = contents(stage_folder)
    listener.messages.clear()

    cached()

    assert contents(stage_folder) == before
    assert listener.messages == []


@pytest.mark.parametrize(
    "lost",
    [
        "layout.safetensors",
        "layout.json",
        "shards/shard-00000.safetensors",
        "shards/shard-00000.json",
        "manifest.json",
    ],
)
def test_what_is_lost_is_made_again_with_the_same_bytes(cached, stage_folder, lost):
    cached()
    before = contents(stage_folder)
    (stage_folder / CACHE / lost).unlink()

    cached()

    assert contents(stage_folder) == before


def test_what_a_killed_process_left_is_removed(cached, stage_folder):
    cached()
    before = contents(stage_folder)
    (stage_folder / CACHE / "shards" / ".partial-0123").write_bytes(b"half a shard")

    cached()

    assert contents(stage_folder) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, r"settings\.seed was 0 and is 1"),
        ({"views": 1}, r"settings\.views was 2 and is 1"),
        ({"precision": "bf16"}, r"settings\.precision was 'fp32' and is 'bf16'"),
        ({"top_k": 5}, r"settings\.top_k was 0 and is 5"),
        ({"augmentation": None}, r"settings\.augmentation was \{'flip'"),
        ({"steps": 1}, "num_images was 10 and is 3"),
    ],
)
def test_other_work_in_the_same_folder_is_refused(cached, change, message):
    cached()

    with pytest.raises(StoreError, match=message):
        cached(**change)


def test_views_around_other_boxes_are_other_work(cached, streams):
    cached()
    stream, count = streams[0]
    first = stream.samples[0]
    moved = replace(first, targets=replace(first.targets, boxes=first.targets.boxes + 1))
    other = replace(stream, samples=(moved, *stream.samples[1:]))

    with pytest.raises(StoreError, match=r"settings\.boxes_fingerprint was"):
        cached(streams=[(other, count)])


def test_a_disk_that_is_too_small_is_refused_before_anything_is_stored(
    cached, monkeypatch, stage_folder
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))

    with pytest.raises(ResourceError, match=r"10 views need 2\.16e-05 GB more, and 0 GB"):
        cached()

    assert not (stage_folder / CACHE / "shards").exists()


def test_two_processes_store_what_one_does(cached, in_processes, stage_folder, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_SIZE", 3)
    cached()
    alone = contents(stage_folder)
    shutil.rmtree(stage_folder)

    results = in_processes(lambda: type(cached()).__name__)

    assert results == ["CachedTeacher", "CachedTeacher"]
    assert contents(stage_folder) == alone


def test_the_error_of_one_process_ends_all(cached, in_processes, images, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_SIZE", 3)
    (images / "3.png").write_bytes(b"")

    def refused():
        with pytest.raises(DataError, match=r"3\.png: the file is empty"):
            cached()
        return "refused"

    assert in_processes(refused) == ["refused", "refused"]


def test_an_image_that_cannot_be_decoded_ends_the_work(cached, streams, images):
    (images / "3.png").write_bytes(b"")

    with pytest.raises(DataError, match=r"3\.png: the file is empty"):
        cached()


def test_an_interrupted_work_goes_on(cached, context, stage_folder):
    context.interruption.signal = signal.SIGTERM

    with pytest.raises(InterruptedRunError):
        cached()
    context.interruption.signal = None
    cached()

    assert len(contents(stage_folder / CACHE / "shards")) == 2


def test_a_signal_to_one_process_ends_the_other_after_its_shard(
    cached, context, in_processes, stage_folder, monkeypatch
):
    monkeypatch.setattr(teacher_cache, "SHARD_SIZE", 1)

    def request(work, done, total):
        context.interruption.signal = (None, signal.SIGTERM)[rank()]

    def stopped():
        context.progress.advance = request
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            cached()
        return "stopped"

    results = in_processes(stopped)

    # Process 1 stopped before its second shard, of which process 0 had made its own.
    assert results == ["stopped", "stopped"]
    names = [path.name for path in sorted((stage_folder / CACHE / "shards").glob("*.json"))]
    assert names == ["shard-00000.json", "shard-00001.json", "shard-00002.json"]


def test_a_shard_has_no_more_bytes_than_it_may(cached, monkeypatch, stage_folder):
    # A view has 20 x 9 priors of 6 halves: 2160 bytes, see above.
    monkeypatch.setattr(teacher_cache, "SHARD_BYTES", 3 * 2160 + 1)

    cached()

    manifest = json.loads((stage_folder / CACHE / "manifest.json").read_text())
    assert manifest["shard_size"] == 3
    assert len(list((stage_folder / CACHE / "shards").glob("*.json"))) == 4


def test_a_view_larger_than_a_shard_may_be_has_one_of_its_own(cached, monkeypatch, stage_folder):
    monkeypatch.setattr(teacher_cache, "SHARD_BYTES", 1)

    cached()

    assert len(list((stage_folder / CACHE / "shards").glob("*.json"))) == 10


def test_a_begun_cache_keeps_the_size_of_its_shards(cached, monkeypatch, stage_folder):
    cached()
    before = contents(stage_folder)
    monkeypatch.setattr(teacher_cache, "SHARD_SIZE", 3)

    cached()

    assert contents(stage_folder) == before


def test_checking_a_cache_is_told_and_can_be_stopped(cached, context, listener, monkeypatch):
    monkeypatch.setattr(teacher_cache, "SHARD_SIZE", 4)
    cached()
    listener.counts.clear()

    cached()
    context.interruption.signal = signal.SIGTERM

    work = "01-train/teacher-cache: checking"
    assert listener.counts == [(work, 1, 3), (work, 2, 3), (work, 3, 3)]
    with pytest.raises(InterruptedRunError):
        cached()


def test_a_batch_size_that_memory_refused_is_not_tried_again(cached, teachers, monkeypatch):
    detector = type(teachers["retinanet"].detector)
    forward = detector.forward
    sizes = []

    def small_memory(self, batch, *args, **kwargs):
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return forward(self, batch, *args, **kwargs)

    monkeypatch.setattr(detector, "forward", small_memory)

    cached()

    # The first view for the layout, then two once, then one by one.
    assert sizes == [1, 2, *[1] * 10]


def test_the_weights_of_the_teacher_are_left_alone(cached, teachers):
    before = {
        name: value.clone() for name, value in teachers["retinanet"].detector.state_dict().items()
    }

    cached()

    after = teachers["retinanet"].detector.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("precision", ["bf16"])
def test_the_teacher_computes_in_the_precision_of_the_run(cached, teachers):
    types = set()
    handle = teachers["retinanet"].detector.neck.register_forward_hook(
        lambda module, args, maps: types.update(one.dtype for one in maps.values())
    )

    cached()
    handle.remove()

    assert types == {torch.bfloat16}


def test_memory_that_runs_out_halves_the_batch(cached, teachers, batches, monkeypatch):
    expected = cached()(batches[0][0], want={DENSE}).dense
    detector = type(teachers["retinanet"].detector)
    forward = detector.forward

    def small_memory(self, batch, *args, **kwargs):
        if len(batch) > 1:
            raise torch.OutOfMemoryError
        return forward(self, batch, *args, **kwargs)

    monkeypatch.setattr(detector, "forward", small_memory)
    (cached()._store.folder / "shards" / "shard-00000.json").unlink()

    read = cached()(batches[0][0], want={DENSE}).dense

    for one, other in zip(read.logits, expected.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_memory_too_small_for_one_image_is_named(cached, teachers, monkeypatch):
    cached(steps=1)
    (cached(steps=1)._store.folder / "shards" / "shard-00000.json").unlink()

    def no_memory(self, batch, *args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(teachers["retinanet"].detector), "forward", no_memory)

    with pytest.raises(ResourceError, match=r"memory of cpu is too small for the image 0\.png"):
        cached(steps=1)


def test_a_kill_at_any_file_operation_costs_at_most_a_shard(tmp_path):
    script = Path(__file__).with_name("cache_with_kills.py")

    done = subprocess.run(
        [sys.executable, script, tmp_path], capture_output=True, text=True, check=False, timeout=60
    )

    # Three shards and the layout, each of two files, and a manifest; each is opened, renamed and
    # flushed.
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["killed"] >= 9 * 3
    assert result["different"] == []
    assert result["computed_again"] == []

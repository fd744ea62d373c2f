"""Batches are pure functions of the step; workers and interruptions change nothing."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.data.boxes import BoxRecord, collect_annotations
from distildet.data.dataset import Sample
from distildet.data.loader import (
    Stream,
    TrainingSample,
    collate,
    targets_from_annotations,
    training_batches,
)
from distildet.data.transforms import Augmentation, fit_view
from distildet.errors import ConfigError, DataError, ResourceError
from distildet.ops.frames import to_image_frame
from distildet.ops.processes import num_processes, rank

ANNOTATIONS = collect_annotations(
    [
        BoxRecord((2.0, 4.0, 22.0, 24.0), 1, 400.0, False),
        BoxRecord((0.0, 0.0, 5.0, 5.0), 0, 25.0, True),
    ]
)

VARIED = Augmentation()


def stream_of(folder, name, count):
    """Stream of images, each of one grey and a size of its own."""
    samples = []
    for index in range(count):
        path = folder / f"{name}{index}.png"
        Image.new("RGB", (40 + index, 30), (20 * index,) * 3).save(path)
        samples.append(Sample(id=path.name, path=path, annotations=ANNOTATIONS))
    targets = targets_from_annotations(ANNOTATIONS, 3)
    return Stream(
        name=name, samples=tuple(TrainingSample(sample=s, targets=targets) for s in samples)
    )


def run(streams, start=0, stop=6, workers=0, seed=1, augmentation=VARIED, share=slice(None)):
    return list(
        training_batches(
            streams,
            seed=seed,
            image_size=48,
            augmentation=augmentation,
            start_step=start,
            stop_step=stop,
            workers=workers,
            share=share,
        )
    )


def assert_same(first, second):
    for (images, targets), (other_images, other_targets) in zip(first, second, strict=True):
        assert images.image_ids == other_images.image_ids
        assert torch.equal(images.pixels, other_images.pixels)
        assert torch.equal(images.image_to_batch, other_images.image_to_batch)
        for one, other in zip(targets, other_targets, strict=True):
            assert torch.equal(one.boxes, other.boxes)
            assert torch.equal(one.ignore, other.ignore)


@pytest.fixture
def streams(tmp_path):
    """Two streams of 5 and 3 images, mixed 2 + 1."""
    return [(stream_of(tmp_path, "a", 5), 2), (stream_of(tmp_path, "b", 3), 1)]


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(streams, workers):
    assert_same(run(streams), run(streams, workers=workers))


def test_shares_together_are_the_whole_batch(streams):
    first, second = run(streams, share=slice(0, None, 2)), run(streams, share=slice(1, None, 2))

    whole = [images.image_ids for images, _ in run(streams)]
    assert [
        (a.image_ids[0], b.image_ids[0], a.image_ids[1])
        for (a, _), (b, _) in zip(first, second, strict=True)
    ] == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_shares_of_processes_are_views_and_canvas_of_the_whole_batch(
    streams, in_processes, workers
):
    # Sides of 48: the shares of one batch alone would be 32 or 64 pixels high.
    def work():
        return [
            (images.image_ids, images.pixels.numpy(), [one.boxes.tolist() for one in targets])
            for images, targets in run(
                streams, workers=workers, share=slice(rank(), None, num_processes())
            )
        ]

    shares = in_processes(work)

    for (images, targets), *own in zip(run(streams), *shares, strict=True):
        for process, (ids, pixels, boxes) in enumerate(own):
            assert ids == images.image_ids[process::2]
            assert np.array_equal(pixels, images.pixels[process::2])
            assert boxes == [one.boxes.tolist() for one in targets[process::2]]


@pytest.mark.parametrize("start", [1, 4, 6])
def test_a_later_start_continues_exactly(streams, start):
    assert_same(run(streams)[start:], run(streams, start=start))


def test_each_pass_takes_every_image_once_in_another_order(streams):
    batches = run(streams, stop=10)

    taken = [name for images, _ in batches for name in images.image_ids[:2]]
    passes = [taken[begin : begin + 5] for begin in range(0, 20, 5)]
    assert [sorted(names) for names in passes] == [[f"a{i}.png" for i in range(5)]] * 4
    assert len({tuple(names) for names in passes}) > 1


def test_each_stream_has_its_count_in_every_batch(streams):
    names = [[name[0] for name in images.image_ids] for images, _ in run(streams)]

    assert names == [["a", "a", "b"]] * 6


def test_the_same_image_looks_different_in_another_pass(tmp_path):
    batches = run([(stream_of(tmp_path, "a", 1), 1)], stop=4)

    assert len({tuple(images.sizes[0].tolist()) for images, _ in batches}) > 1


def test_another_seed_gives_other_batches(streams):
    first, second = run(streams), run(streams, seed=2)

    assert [i.image_ids for i, _ in first] != [i.image_ids for i, _ in second]


def test_streams_of_other_names_have_orders_of_their_own(tmp_path):
    samples = stream_of(tmp_path, "a", 8).samples
    streams = [(Stream(name=name, samples=samples), 8) for name in ("x", "y")]

    names = run(streams, stop=1)[0][0].image_ids

    assert sorted(names[:8]) == sorted(names[8:])
    assert names[:8] != names[8:]


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(streams, workers):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002

    run(streams, stop=2, workers=workers)

    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_without_augmentation_images_are_whole(streams):
    images, targets = run(streams, stop=1, augmentation=None)[0]

    back = to_image_frame(targets[0].boxes, images, 0)
    assert torch.allclose(back, torch.tensor([[2.0, 4.0, 22.0, 24.0]]), atol=1e-4)


def test_a_damaged_image_is_named_without_a_traceback(streams, tmp_path):
    (tmp_path / "a2.png").write_bytes(b"")

    with pytest.raises(DataError, match=r"^\S*a2\.png: the file is empty[^\n]*$"):
        run(streams, workers=1)


# torch raises from its signal handler, which may hit a callback whose errors are only reported.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_dead_worker_is_an_error_of_the_machine(tmp_path):
    stream = stream_of(tmp_path, "a", 5)
    batches = training_batches(
        [(stream, 2)],
        seed=0,
        image_size=48,
        augmentation=None,
        start_step=0,
        stop_step=10_000,
        workers=1,
    )
    next(batches)
    worker = torch.multiprocessing.active_children()[0]
    os.kill(worker.pid, signal.SIGKILL)

    with pytest.raises(ResourceError, match=r"A process that decodes images died .*to continue"):
        list(batches)


def test_an_empty_stream_is_refused():
    with pytest.raises(ConfigError, match="The stream 'labeled' has no images"):
        Stream(name="labeled", samples=())


def test_annotations_become_targets():
    targets = targets_from_annotations(ANNOTATIONS, 3)

    assert targets.boxes.tolist() == [[2, 4, 22, 24]]
    assert targets.labels.tolist() == [1]
    assert targets.weights.tolist() == [1]
    assert targets.ignore.tolist() == [[0, 0, 5, 5]]
    assert targets.known_classes.tolist() == [True, True, True]
    assert targets.origin == "human"


def test_no_annotations_become_background():
    targets = targets_from_annotations(collect_annotations([]), 3)

    assert targets.boxes.shape == (0, 4)
    assert targets.labels.dtype == torch.int64


def test_views_are_padded_with_zeros_to_a_multiple_of_32():
    white = [torch.full((3, *size), 255, dtype=torch.uint8) for size in ((20, 40), (33, 10))]

    batch = collate([fit_view(white[0], 40), fit_view(white[1], 33)], ["x", "y"])

    assert batch.pixels.shape == (2, 3, 64, 64)
    assert batch.sizes.tolist() == [[20, 40], [33, 10]]
    assert batch.image_sizes.tolist() == [[20, 40], [33, 10]]
    assert batch.image_ids == ("x", "y")
    # 3 channels of ones where the image is, zeros elsewhere
    assert batch.pixels.sum((1, 2, 3)).tolist() == [3 * 20 * 40, 3 * 33 * 10]
    assert batch.pixels[0, :, :20, :40].min() == 1


def test_a_size_that_is_a_multiple_is_not_padded():
    view = fit_view(torch.zeros(3, 64, 32, dtype=torch.uint8), 64)

    assert collate([view], ["x"]).pixels.shape == (1, 3, 64, 32)


ENDS_WITH_AN_ERROR = """
import sys
from torch.utils.data import Dataset
from distildet.data.workers import load_steps
from distildet.errors import DataError

class Steps(Dataset):
    def __getitem__(self, step):
        return DataError(f"step {step} is bad")

try:
    for batch in load_steps(Steps(), range(9), workers=2):
        pass
except DataError as error:
    sys.exit(str(error))  # while the error, and with it the frames, are still held
"""


def test_a_program_ends_at_once_when_a_step_fails_in_a_worker():
    done = subprocess.run(
        [sys.executable, "-c", ENDS_WITH_AN_ERROR],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (1, "step 0 is bad\n")


HOLDS_A_LOADER = """
import sys
from torch.utils.data import Dataset
from distildet.data.workers import load_steps
from distildet.errors import DataError

class Steps(Dataset):
    def __getitem__(self, step):
        return DataError("never looked at")

batches = load_steps(Steps(), range(9), workers=2)
held = []
try:
    next(batches)
except DataError as error:
    held.append(error)
other = load_steps(Steps(), range(9), workers=1)
held.append(other)
sys.exit(5)
"""


def test_a_program_ends_while_somebody_holds_on_to_a_loader():
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_A_LOADER],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (5, "")

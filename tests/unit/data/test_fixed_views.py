"""A fixed number of views: the same come again, on one canvas, and can be had one by one."""

import pytest
import torch
from PIL import Image

from distildet.data.boxes import BoxRecord, collect_annotations
from distildet.data.dataset import Sample
from distildet.data.fixed_views import fixed_views, num_passes, view_batches
from distildet.data.loader import Stream, TrainingSample, targets_from_annotations, training_batches
from distildet.data.transforms import Augmentation
from distildet.errors import DataError

ANNOTATIONS = collect_annotations([BoxRecord((2.0, 4.0, 22.0, 24.0), 1, 400.0, False)])
TARGETS = targets_from_annotations(ANNOTATIONS, 3)
LOOK = {"image_size": 40, "augmentation": Augmentation()}


def stream_of(folder, name, count):
    """Stream of upright images, each with a size and a grey of its own."""
    samples = []
    for index in range(count):
        path = folder / f"{name}{index}.png"
        Image.new("RGB", (20 + index, 50), (30 * index + 20,) * 3).save(path)
        samples.append(Sample(id=path.name, path=path, annotations=ANNOTATIONS))
    return Stream(
        name=name, samples=tuple(TrainingSample(sample=s, targets=TARGETS) for s in samples)
    )


@pytest.fixture
def streams(tmp_path):
    """Two streams of 4 and 2 images, mixed 2 + 1: a pass is two steps long for both."""
    return [(stream_of(tmp_path, "a", 4), 2), (stream_of(tmp_path, "b", 2), 1)]


@pytest.fixture
def batches(streams):
    """Batches of six passes over three views."""
    return list(
        training_batches(
            streams, seed=3, start_step=0, stop_step=12, workers=0, num_views=3, **LOOK
        )
    )


def pixels_by_view(batches):
    return [
        (view_id, pixels)
        for batch, _ in batches
        for view_id, pixels in zip(batch.view_ids, batch.pixels, strict=True)
    ]


def test_views_come_again_after_as_many_passes(batches):
    early, late = pixels_by_view(batches[:6]), dict(pixels_by_view(batches[6:]))

    assert all(torch.equal(pixels, late[view_id]) for view_id, pixels in early)
    assert len(late) == 3 * (4 + 2)


def test_the_order_of_the_passes_stays_as_without_fixed_views(streams, batches):
    varied = training_batches(streams, seed=3, start_step=0, stop_step=12, workers=0, **LOOK)

    assert [batch.image_ids for batch, _ in varied] == [batch.image_ids for batch, _ in batches]


def test_the_first_passes_look_as_without_fixed_views(streams, batches):
    varied = training_batches(streams, seed=3, start_step=0, stop_step=12, workers=0, **LOOK)

    first = next(varied)[0]

    assert torch.equal(first.image_to_batch, batches[0][0].image_to_batch)
    assert first.view_ids == ()


def test_every_batch_is_a_square_of_the_same_size(batches):
    assert {tuple(batch.pixels.shape) for batch, _ in batches} == {(3, 3, 64, 64)}


def test_all_views_are_those_that_training_shows(streams, batches):
    draws = fixed_views(streams, seed=3, steps=12, num_views=3)
    single = list(view_batches([[draw] for draw in draws], workers=0, **LOOK))

    shown = dict(pixels_by_view(batches))
    listed = pixels_by_view(single)
    assert len(listed) == len(shown)
    assert all(torch.equal(pixels, shown[view_id]) for view_id, pixels in listed)


def test_views_have_the_targets_that_training_shows(streams, batches):
    draws = fixed_views(streams, seed=3, steps=12, num_views=3)
    listed = list(view_batches([[draw] for draw in draws], workers=0, **LOOK))

    shown = {
        view_id: targets
        for batch, of_batch in batches
        for view_id, targets in zip(batch.view_ids, of_batch, strict=True)
    }
    assert all(
        torch.equal(targets.boxes, shown[batch.view_ids[0]].boxes) for batch, (targets,) in listed
    )
    assert len({tuple(targets.boxes.flatten().tolist()) for _, (targets,) in listed}) > 1


def test_batches_of_views_have_what_is_asked_in_order(streams):
    draws = fixed_views(streams, seed=3, steps=2, num_views=3)

    batches = list(view_batches([draws[:4], draws[4:]], workers=1, **LOOK))

    assert [batch.image_ids for batch, _ in batches] == [
        ("a0.png", "a1.png", "a2.png", "a3.png"),
        ("b0.png", "b1.png"),
    ]
    assert batches[1][0].view_ids == ("b/0/b0.png", "b/0/b1.png")


@pytest.mark.parametrize(("steps", "num_views"), [(1, 5), (3, 5), (3, 2), (3, 1), (4, 2), (5, 2)])
def test_views_that_no_step_shows_are_left_out(streams, steps, num_views):
    drawn = training_batches(
        streams, seed=3, start_step=0, stop_step=steps, workers=0, num_views=num_views, **LOOK
    )

    draws = fixed_views(streams, seed=3, steps=steps, num_views=num_views)

    listed = [draw.view_id for draw in draws]
    assert sorted(listed) == sorted({view_id for batch, _ in drawn for view_id in batch.view_ids})


def test_passes_are_counted_of_the_stream_that_comes_most_often(tmp_path):
    streams = [(stream_of(tmp_path, "a", 4), 1), (stream_of(tmp_path, "b", 2), 1)]

    # Five images of two.
    assert num_passes(streams, steps=5) == 2.5


def test_an_image_that_cannot_be_decoded_is_named(streams, tmp_path):
    (tmp_path / "a1.png").write_bytes(b"")
    draws = fixed_views(streams, seed=3, steps=2, num_views=1)

    with pytest.raises(DataError, match=r"a1\.png: the file is empty"):
        list(view_batches([draws], workers=0, **LOOK))

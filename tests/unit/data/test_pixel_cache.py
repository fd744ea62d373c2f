"""Images are decoded once; views from memory are the same whoever decoded first."""

import time
from multiprocessing import RawArray, Value
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.data import free_memory, pixel_cache
from distildet.data.dataset import Sample
from distildet.data.decode import decode_image
from distildet.data.loader import Stream, TrainingSample, training_batches
from distildet.data.pixel_cache import PixelCache
from distildet.data.transforms import Augmentation, plan_fit, view_picture
from distildet.errors import DataError, ResourceError
from distildet.ops.frames import map_boxes
from distildet.ops.processes import rank
from distildet.structures import Targets

# Three pictures of 3 * 51 * 100 bytes are 45,900 bytes.
NEEDED = 45_900
BOX = torch.tensor([[101.0, 42.0, 303.0, 155.0]])


def store(path, *, orientation=1):
    """Store 403 x 205 grey pixels with a red box, turned; no side is a multiple of 2."""
    pixels = np.full((205, 403, 3), 100, dtype=np.uint8)
    pixels[42:155, 101:303] = (200, 50, 50)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}
    image = Image.fromarray(pixels)
    stored = image.transpose(turns[orientation]) if orientation in turns else image
    options = {"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}
    stored.save(path, exif=exif, **options)
    return path


def cache_of(paths, longest):
    cache = PixelCache(longest=longest)
    cache.add(paths)
    return cache


def stream_of(paths, longest=None):
    cache = None if longest is None else cache_of(paths, longest)
    targets = Targets(
        boxes=BOX,
        labels=torch.tensor([0]),
        weights=torch.ones(1),
        ignore=torch.zeros(0, 4),
        known_classes=torch.ones(1, dtype=torch.bool),
        origin="human",
    )
    samples = tuple(
        TrainingSample(sample=Sample(id=path.name, path=path), targets=targets, cache=cache)
        for path in paths
    )
    return Stream(name="a", samples=samples)


def pixels_of_steps(stream, workers=0, start=0):
    batches = training_batches(
        [(stream, 2)],
        seed=1,
        image_size=64,
        augmentation=Augmentation(),
        start_step=start,
        stop_step=6,
        workers=workers,
    )
    return [images.pixels for images, _ in batches]


@pytest.fixture
def paths(tmp_path):
    return [store(tmp_path / name) for name in ("a.jpg", "b.png", "c.jpg")]


def test_an_image_that_is_small_enough_is_kept_as_it_is(paths):
    cache = cache_of(paths, 403)

    for path in paths * 2:
        picture = cache.picture(path)
        assert torch.equal(picture.pixels, decode_image(path))
        assert (picture.size, picture.scale, picture.start) == ((205, 403), (1, 1), (0, 0))


def test_the_memory_is_that_of_the_pictures_each_once(paths):
    # 205 * 100 / 403 = 50.9 rows
    cache = cache_of([*paths, paths[0]], 100)

    assert len(cache) == 3
    assert cache.num_bytes == 3 * (51 * 100 * 3)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("longest", "image_size"), [(100, 100), (150, 90), (45, 45)])
def test_a_box_is_seen_where_the_matrix_says(tmp_path, suffix, orientation, longest, image_size):
    path = store(tmp_path / f"a.{suffix}", orientation=orientation)
    cache = cache_of([path], longest)

    view = view_picture(cache.picture(path), plan_fit((205, 403), image_size))

    redness = (view.pixels[0] - view.pixels[1]) * 255 / 150  # [h, w], 1 inside
    x1, y1, x2, y2 = map_boxes(BOX, view.image_to_batch)[0].tolist()
    rows = torch.arange(view.size[0]) + 0.5
    columns = torch.arange(view.size[1]) + 0.5
    area = redness.sum()
    assert view.image_size == (205, 403)
    assert (redness.sum(0) * columns).sum() / area == pytest.approx((x1 + x2) / 2, abs=0.1)
    assert (redness.sum(1) * rows).sum() / area == pytest.approx((y1 + y2) / 2, abs=0.1)
    assert area == pytest.approx((x2 - x1) * (y2 - y1), rel=0.01)


def test_images_that_are_added_later_leave_the_others_where_they_are(paths):
    cache = cache_of(paths[:2], 100)
    first = cache.picture(paths[0]).pixels.clone()
    paths[0].unlink()

    cache.add(paths)

    assert torch.equal(cache.picture(paths[0]).pixels, first)
    assert torch.equal(
        cache.picture(paths[2]).pixels, cache_of(paths[2:], 100).picture(paths[2]).pixels
    )
    assert (len(cache), cache.num_bytes) == (3, NEEDED)


def test_nothing_to_add_needs_no_room(paths, free):
    cache = cache_of(paths, 100)
    free(0, 0)

    cache.add(paths)

    assert len(cache) == 3


def test_an_image_is_decoded_once(paths):
    cache = cache_of(paths, 100)
    first = cache.picture(paths[0]).pixels.clone()
    paths[0].unlink()

    assert torch.equal(cache.picture(paths[0]).pixels, first)


def test_what_workers_decode_is_there_for_all(paths):
    stream = stream_of(paths, longest=103)
    first = pixels_of_steps(stream, workers=2)
    [path.unlink() for path in paths]

    again = pixels_of_steps(stream)

    assert all(map(torch.equal, first, again))


def test_what_a_stage_decoded_is_there_for_one_that_adds_images(paths):
    first = stream_of(paths[:2], longest=103)
    shown = pixels_of_steps(first, workers=2)
    [path.unlink() for path in paths[:2]]

    first.samples[0].cache.add(paths[2:])

    assert all(map(torch.equal, shown, pixels_of_steps(first, workers=2)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_later_start_with_any_workers_shows_the_same(paths, workers):
    whole = pixels_of_steps(stream_of(paths, longest=103))

    rest = pixels_of_steps(stream_of(paths, longest=103), workers=workers, start=2)

    assert all(map(torch.equal, rest, whole[2:]))


def test_views_of_images_that_are_kept_whole_are_those_without_a_cache(tmp_path):
    paths = [store(tmp_path / name) for name in ("a.png", "b.png")]

    kept = pixels_of_steps(stream_of(paths, longest=403))

    assert all(map(torch.equal, kept, pixels_of_steps(stream_of(paths))))


def test_a_damaged_header_is_named_at_the_start(paths):
    paths[1].write_bytes(b"")

    with pytest.raises(DataError, match=r"b\.png: the file is empty"):
        cache_of(paths, 100)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("longest", [None, 100])
def test_a_damaged_image_is_named_when_it_is_shown(paths, longest, workers):
    paths[2].write_bytes(paths[2].read_bytes()[:-100])

    with pytest.raises(DataError, match=r"c\.jpg: the image is damaged and cannot be decoded \("):
        pixels_of_steps(stream_of(paths, longest=longest), workers=workers)


def test_a_damaged_image_is_named_again_by_whoever_comes_next(paths):
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    cache = cache_of(paths, 100)

    with pytest.raises(DataError, match=r"c\.jpg: the image is damaged") as first:
        cache.picture(paths[2])
    with pytest.raises(DataError, match=r"c\.jpg: the image is damaged") as second:
        cache.picture(paths[2])

    assert str(first.value) == str(second.value)


class Usage(NamedTuple):
    """What a system says of a file system."""

    free: int


@pytest.fixture
def free(tmp_path, monkeypatch):
    """Let a system say how much memory is free, and how much of the shared one."""
    for name in ("_OWN_GROUPS", "_GROUPS"):
        monkeypatch.setattr(free_memory, name, tmp_path / name)
    (tmp_path / "_OWN_GROUPS").write_text("0::/\n")
    (tmp_path / "_GROUPS").mkdir()
    (tmp_path / "_GROUPS" / "memory.current").write_text("0\n")

    def say(free=10**9, shared=10**9):
        (tmp_path / "_GROUPS" / "memory.max").write_text(f"{free}\n")
        monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(shared))

    return say


def test_what_just_fits_is_taken(paths, free):
    free(NEEDED, NEEDED)

    assert cache_of(paths, 100).num_bytes == NEEDED


def test_too_little_memory_is_refused(paths, free):
    free(NEEDED - 1)

    with pytest.raises(
        ResourceError, match=r"data\.cache: the images need 0\.00 GB of memory, 0\.00 GB are free"
    ):
        cache_of(paths, 100)


def test_memory_that_is_not_shared_through_files_has_no_second_limit(paths, free, monkeypatch):
    free(NEEDED, 0)
    monkeypatch.setattr(free_memory, "_SHARED", paths[0] / "none")

    assert cache_of(paths, 100).num_bytes == NEEDED


def test_too_little_shared_memory_is_refused(paths, free):
    free(shared=NEEDED - 1)

    with pytest.raises(
        ResourceError, match=r"of shared memory, /dev/shm has 0\.00 GB left\. Enlarge"
    ):
        cache_of(paths, 100)


def test_images_that_are_refused_are_not_there(paths, free):
    free()
    cache = cache_of(paths[:1], 100)
    free(1)

    with pytest.raises(ResourceError, match="of memory"):
        cache.add(paths)

    assert (len(cache), cache.num_bytes) == (1, NEEDED // 3)


def test_each_process_of_a_machine_needs_its_own_memory(paths, free, in_processes):
    free(2 * NEEDED - 1)

    errors = in_processes(lambda: cache_of(paths, 100))

    assert [type(error) for error in errors] == [ResourceError] * 2


def test_processes_of_other_machines_take_nothing_from_this_one(
    paths, free, in_processes, monkeypatch
):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    free(NEEDED)

    assert in_processes(lambda: cache_of(paths, 100).num_bytes) == [NEEDED] * 2


def test_one_process_is_alone_whatever_the_environment_says(paths, free, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    free(NEEDED)

    assert cache_of(paths, 100).num_bytes == NEEDED


def test_a_process_that_asks_late_sees_what_was_free_before_others_took_it(
    paths, in_processes, monkeypatch
):
    taken = Value("q", 0)

    def take(kind, size):
        with taken:
            taken.value += size
        return RawArray(kind, size)

    def usage(path):
        time.sleep(0.3 * rank())
        return Usage(5 * NEEDED // 2 - taken.value)

    monkeypatch.setattr(pixel_cache, "RawArray", take)
    monkeypatch.setattr("shutil.disk_usage", usage)

    assert in_processes(lambda: cache_of(paths, 100).num_bytes) == [NEEDED] * 2


def test_where_one_process_has_no_room_none_takes_it(paths, in_processes, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage((10**9, NEEDED)[rank()]))

    first, second = in_processes(lambda: cache_of(paths, 100).num_bytes)

    assert "of shared memory" in str(first)
    assert str(first) == str(second)


def test_a_header_that_one_process_cannot_read_is_named_by_all(paths, in_processes):
    paths[1].write_bytes(b"")

    errors = in_processes(lambda: cache_of(paths, 100))

    assert ["b.png: the file is empty" in str(error) for error in errors] == [True, True]

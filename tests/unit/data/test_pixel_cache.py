"""Images are decoded once; views from memory are the same whoever decoded first."""

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.data import pixel_cache
from distildet.data.dataset import Sample
from distildet.data.decode import decode_image
from distildet.data.loader import Stream, TrainingSample, training_batches
from distildet.data.pixel_cache import PixelCache
from distildet.data.transforms import Augmentation, plan_fit, view_picture
from distildet.errors import DataError, ResourceError
from distildet.ops.frames import map_boxes
from distildet.structures import Targets

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


def stream_of(paths, longest=None):
    cache = None if longest is None else PixelCache(paths, longest=longest)
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
    cache = PixelCache(paths, longest=403)

    for path in paths * 2:
        picture = cache.picture(path)
        assert torch.equal(picture.pixels, decode_image(path))
        assert (picture.size, picture.scale, picture.start) == ((205, 403), (1, 1), (0, 0))


def test_the_memory_is_that_of_the_pictures_each_once(paths):
    # 205 * 100 / 403 = 50.9 rows
    cache = PixelCache([*paths, paths[0]], longest=100)

    assert len(cache) == 3
    assert cache.num_bytes == 3 * (51 * 100 * 3)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize(("longest", "image_size"), [(100, 100), (150, 90), (45, 45)])
def test_a_box_is_seen_where_the_matrix_says(tmp_path, suffix, orientation, longest, image_size):
    path = store(tmp_path / f"a.{suffix}", orientation=orientation)
    cache = PixelCache([path], longest=longest)

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


def test_an_image_is_decoded_once(paths):
    cache = PixelCache(paths, longest=100)
    first = cache.picture(paths[0]).pixels.clone()
    paths[0].unlink()

    assert torch.equal(cache.picture(paths[0]).pixels, first)


def test_what_workers_decode_is_there_for_all(paths):
    stream = stream_of(paths, longest=103)
    first = pixels_of_steps(stream, workers=2)
    [path.unlink() for path in paths]

    again = pixels_of_steps(stream)

    assert all(map(torch.equal, first, again))


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
        PixelCache(paths, longest=100)


def test_a_damaged_image_is_named_when_it_is_shown(paths):
    paths[2].write_bytes(paths[2].read_bytes()[:-100])

    with pytest.raises(DataError, match=r"c\.jpg: the image is damaged"):
        pixels_of_steps(stream_of(paths, longest=100), workers=1)


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Files in which a system tells how much memory there is."""
    monkeypatch.setattr(pixel_cache, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(pixel_cache, "_LIMIT", tmp_path / "memory.max")
    return tmp_path


# Three pictures of 3 * 51 * 100 bytes are 45,900 bytes, 44.8 KiB.
@pytest.mark.parametrize(
    ("free", "limit", "processes"),
    [(44, "max\n", 1), (45, "45000\n", 1), (50, "max\n", 2)],
)
def test_too_little_memory_is_refused(paths, system, monkeypatch, free, limit, processes):
    (system / "meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable:   {free} kB\n")
    (system / "memory.max").write_text(limit)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))

    with pytest.raises(
        ResourceError, match=r"data\.cache: the images need 0\.00 GB of memory, 0\."
    ):
        PixelCache(paths, longest=100)


def test_enough_memory_is_taken(paths, system):
    (system / "meminfo").write_text("MemAvailable: 45 kB\n")

    assert PixelCache(paths, longest=100).num_bytes == 45_900


@pytest.mark.parametrize("content", ["", "MemTotal: 9 kB\n"])
def test_without_word_of_free_memory_that_of_the_machine_counts(paths, system, content):
    (system / "meminfo").write_text(content)

    assert PixelCache(paths, longest=100).num_bytes == 45_900


def test_a_system_that_has_no_such_files_is_taken_as_free(paths, system):
    assert PixelCache(paths, longest=100).num_bytes == 45_900


def test_too_little_shared_memory_is_refused(paths, monkeypatch, tmp_path):
    monkeypatch.setattr(pixel_cache, "_SHARED", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 45_000}))

    with pytest.raises(ResourceError, match=r"of shared memory, \S+ has 0\.00 GB left\. Enlarge"):
        PixelCache(paths, longest=100)

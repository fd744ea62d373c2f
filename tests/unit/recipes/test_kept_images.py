"""Images of a run are kept once, as large as its largest view needs them."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from distildet.data.dataset import Sample
from distildet.data.loader import Stream, TrainingSample
from distildet.data.pixel_cache import PixelCache
from distildet.recipes.kept_images import keep_decoded, longest_kept
from distildet.structures import Targets


@pytest.fixture
def streams(tmp_path):
    """Two streams of which the second has an image of the first."""
    targets = Targets(
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        weights=torch.zeros(0),
        ignore=torch.zeros(0, 4),
        known_classes=torch.ones(1, dtype=torch.bool),
        origin="human",
    )
    for name in ("a.png", "b.png"):
        Image.new("RGB", (400, 200)).save(tmp_path / name)
    first = TrainingSample(sample=Sample(id="a", path=tmp_path / "a.png"), targets=targets)
    second = replace(first, sample=Sample(id="b", path=tmp_path / "b.png"))
    return [(Stream(name="x", samples=(first, second)), 3), (Stream(name="y", samples=(first,)), 1)]


STAGE = "{{stage: train, epochs: 1, optimizer: {{lr: 1e-3}}, augmentation: {}}}"


@pytest.mark.parametrize(
    ("augmentations", "longest"),
    [
        (["none"], 64),
        (["{zoom: [0.5, 1.0]}"], 64),
        (["{zoom: [0.5, 0.75]}"], 48),
        (["{zoom: [0.5, 1.613]}"], 104),  # 64 * 1.613 = 103.2, rounded up
        (["none", "{zoom: [0.5, 2.0]}", "{zoom: [0.5, 1.5]}"], 128),
    ],
)
def test_the_largest_zoom_of_all_stages_decides_how_large_images_are_kept(
    load_plain, augmentations, longest
):
    stages = ", ".join(STAGE.format(augmentation) for augmentation in augmentations)

    assert longest_kept(load_plain(f"stages=[{stages}]")) == longest


def test_streams_keep_their_samples_and_share_one_memory(streams):
    cache = PixelCache(longest=100)

    kept, _ = keep_decoded(streams, cache)

    assert [(stream.name, count) for stream, count in kept] == [("x", 3), ("y", 1)]
    assert [one.sample.id for stream, _ in kept for one in stream.samples] == ["a", "b", "a"]
    assert {id(one.cache) for stream, _ in kept for one in stream.samples} == {id(cache)}


def test_the_memory_is_told_of_what_is_new(streams):
    cache = PixelCache(longest=4000)

    lines = [keep_decoded(part, cache)[1] for part in (streams[1:], streams, streams)]

    # 3 * 200 * 400 bytes an image
    assert lines == [
        "1 images will be kept in 0.2 MB of memory (data.cache)",
        "1 more images will be kept in 0.2 MB of memory (data.cache)",
        None,
    ]


def test_the_memory_of_each_process_is_told(streams, in_processes):
    told = in_processes(lambda: keep_decoded(streams, PixelCache(longest=4000))[1])

    assert told[0] == (
        "2 images will be kept in 0.5 MB of memory by each of the 2 processes of this machine "
        "(data.cache)"
    )


def test_stages_do_not_decode_again_what_an_earlier_one_has_shown(streams):
    cache = PixelCache(longest=100)
    first, _ = keep_decoded(streams, cache)
    sample = first[0][0].samples[0]
    shown = sample.cache.picture(sample.sample.path).pixels.clone()
    sample.sample.path.unlink()

    again, _ = keep_decoded(streams[:1], cache)

    assert torch.equal(again[0][0].samples[0].cache.picture(sample.sample.path).pixels, shown)

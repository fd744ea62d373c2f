"""Images of a stage are kept as large as its largest view needs them."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from distildet.data.dataset import Sample
from distildet.data.loader import Stream, TrainingSample
from distildet.data.transforms import Augmentation
from distildet.recipes.kept_images import keep_decoded
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


@pytest.mark.parametrize(
    ("augmentation", "size"),
    [
        (None, (50, 100)),
        (Augmentation(zoom=(0.5, 1.0)), (50, 100)),
        (Augmentation(zoom=(0.5, 1.613)), (81, 162)),  # 100 * 1.613 rounded up
        (Augmentation(zoom=(1.0, 9.0)), (200, 400)),
    ],
)
def test_the_largest_zoom_decides_how_large_images_are_kept(streams, augmentation, size):
    kept, _ = keep_decoded(streams, image_size=100, augmentation=augmentation)

    one = kept[0][0].samples[0]
    assert one.cache.picture(one.sample.path).pixels.shape == (3, *size)


def test_streams_keep_their_samples_and_share_one_memory(streams):
    kept, _ = keep_decoded(streams, image_size=100, augmentation=None)

    assert [(stream.name, count) for stream, count in kept] == [("x", 3), ("y", 1)]
    assert [one.sample.id for stream, _ in kept for one in stream.samples] == ["a", "b", "a"]
    assert len({id(one.cache) for stream, _ in kept for one in stream.samples}) == 1


def test_the_memory_is_told(streams):
    _, line = keep_decoded(streams, image_size=4000, augmentation=None)

    # Two images of 3 * 200 * 400 bytes
    assert line == "2 images will be kept in 0.5 MB of memory (data.cache)"

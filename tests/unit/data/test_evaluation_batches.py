"""Evaluation goes through every image once."""

import pytest
from PIL import Image

from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import evaluation_batches


@pytest.fixture
def samples(tmp_path):
    """Five images, each of a width of its own."""
    for index in range(5):
        Image.new("RGB", (40 + index, 30)).save(tmp_path / f"a{index}.png")
    return [Sample(id=path.name, path=path) for path in sorted(tmp_path.glob("*.png"))]


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_goes_through_all_images_in_order(samples, workers):
    batches = list(evaluation_batches(samples, image_size=32, batch_size=2, workers=workers))

    assert [batch.image_ids for batch in batches] == [
        ("a0.png", "a1.png"),
        ("a2.png", "a3.png"),
        ("a4.png",),
    ]
    assert batches[2].image_sizes.tolist() == [[30, 44]]
    assert batches[2].sizes.tolist() == [[22, 32]]


def test_evaluation_of_nothing_ends_at_once():
    assert list(evaluation_batches([], image_size=32, batch_size=2, workers=0)) == []

"""Plans of batches, and what is loaded by them."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import evaluation_batches, plan_batches
from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.errors import DataError, ResourceError

SIDES = (24, 40, 64, 80)


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    """Sixteen images, one of each width and height."""
    folder = tmp_path_factory.mktemp("shapes")
    for width in SIDES:
        for height in SIDES:
            Image.new("RGB", (width, height)).save(folder / f"{width}x{height}.png")
    return [Sample(id=path.name, path=path) for path in sorted(folder.glob("*.png"))]


def samples_of(folder, *names):
    return [Sample(id=name, path=folder / name) for name in names]


def names_of(plan):
    return [tuple(sample.id for sample in batch) for batch in plan]


def padded_pixels(plan):
    """Return the pixels of all batches, padding included, by loading them."""
    return sum(
        loaded.images.pixels[:, 0].numel()
        for loaded in evaluation_batches(plan, image_size=64, workers=0)
    )


def test_images_go_from_wide_to_high_and_equal_shapes_keep_their_order(tmp_path):
    sizes = {"a": (10, 20), "b": (20, 10), "c": (16, 16), "d": (40, 20), "e": (20, 40)}
    for name, size in sizes.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    samples = samples_of(tmp_path, *(f"{name}.png" for name in sizes))

    plan = plan_batches(samples, 2)

    # height / width: b, d 0.5; c 1; a, e 2
    assert names_of(plan) == [("b.png", "d.png"), ("c.png", "a.png"), ("e.png",)]


@given(chosen=st.permutations(range(16)), count=st.integers(0, 16), batch_size=st.integers(1, 5))
def test_every_image_is_planned_once_in_as_few_batches_as_can_be(shapes, chosen, count, batch_size):
    samples = [shapes[index] for index in chosen[:count]]

    plan = plan_batches(samples, batch_size)

    assert sorted(sum(names_of(plan), ())) == sorted(sample.id for sample in samples)
    assert [len(batch) for batch in plan[:-1]] == [batch_size] * (-(-count // batch_size) - 1)


@pytest.mark.parametrize("batch_size", [2, 4, 5, 16])
def test_a_plan_pads_no_more_than_the_order_of_the_work(shapes, batch_size):
    in_order = [shapes[start : start + batch_size] for start in range(0, 16, batch_size)]

    assert padded_pixels(plan_batches(shapes, batch_size)) <= padded_pixels(in_order)


def test_images_of_one_shape_keep_the_order_of_the_work(tmp_path):
    for name in "dcba":
        Image.new("RGB", (40, 30)).save(tmp_path / name, format="PNG")

    assert names_of(plan_batches(samples_of(tmp_path, *"dcba"), 3)) == [("d", "c", "b"), ("a",)]


def test_a_shape_is_that_of_the_image_turned_as_exif_says(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter turn
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=turned)
    Image.new("RGB", (40, 20)).save(tmp_path / "wide.jpg")

    plan = plan_batches(samples_of(tmp_path, "turned.jpg", "wide.jpg"), 1)

    assert names_of(plan) == [("wide.jpg",), ("turned.jpg",)]


def test_unreadable_files_come_last(tmp_path):
    (tmp_path / "a").write_bytes(b"<html>")
    Image.new("RGB", (20, 40)).save(tmp_path / "b", format="PNG")

    assert names_of(plan_batches(samples_of(tmp_path, "missing", "a", "b"), 1)) == [
        ("b",),
        ("missing",),
        ("a",),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_hold_the_whole_images_of_the_plan(shapes, workers):
    plan = [shapes[:3], shapes[5:6]]

    loaded = list(evaluation_batches(plan, image_size=32, workers=workers))

    assert [one.images.image_ids for one in loaded] == names_of(plan)
    assert [one.faults for one in loaded] == [{}, {}]
    # 40x40
    assert loaded[1].images.image_sizes.tolist() == [[40, 40]]
    assert loaded[1].images.sizes.tolist() == [[32, 32]]


def test_nothing_planned_ends_at_once():
    assert list(evaluation_batches([], image_size=32, workers=0)) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_loses_the_image_that_cannot_be_decoded_and_no_other(shapes, tmp_path, workers):
    bad = tmp_path / "bad.png"
    bad.write_bytes(shapes[0].path.read_bytes()[:50])
    plan = [[shapes[0], Sample(id="bad.png", path=bad), shapes[1]], [shapes[2]]]

    first, second = evaluation_batches(plan, image_size=32, workers=workers)

    expected = collate([fit_view(torch.zeros(3, 24, 24, dtype=torch.uint8), 32)], ["24x24.png"])
    assert first.images.image_ids == ("24x24.png", "24x40.png")
    assert torch.equal(first.images.image_to_batch[0], expected.image_to_batch[0])
    assert list(first.faults) == ["bad.png"]
    assert second.images.image_ids == ("24x64.png",)
    with pytest.raises(DataError, match=r"bad\.png: the image is damaged"):
        first.raise_if_faulty()
    second.raise_if_faulty()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_of_which_nothing_can_be_decoded_is_empty(shapes, tmp_path, workers):
    plan = [samples_of(tmp_path, "missing"), [shapes[0]]]

    first, second = evaluation_batches(plan, image_size=32, workers=workers)

    assert len(first.images) == 0
    assert list(first.faults) == ["missing"]
    assert len(second.images) == 1


class FailsOnce(type(Path())):
    """A path of a disk that fails at the first attempt."""

    is_mended = False

    def stat(self, **options):
        if self.is_mended:
            return super().stat(**options)
        self.is_mended = True
        raise OSError(5, "Input/output error")


def test_an_image_that_can_be_read_only_at_a_second_attempt_is_not_the_users_fault(shapes):
    flaky = Sample(id="a", path=FailsOnce(shapes[0].path))

    with pytest.raises(ResourceError, match=r"24x24\.png: could not be decoded at first"):
        list(evaluation_batches([[flaky]], image_size=32, workers=0))

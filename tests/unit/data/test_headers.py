"""What headers tell: sizes after turning, faults named before any pixel, several pictures."""

import numpy as np
import pytest
from PIL import Image

from distildet.data.headers import note_frames, probe_size, refuse_other_sizes
from distildet.data.image_file import MAX_PIXELS
from distildet.errors import DataError


def picture(height=16, width=24):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b" \n", "the file is empty"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"\n<html><body>404", "HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", r"Git LFS pointer.*git lfs pull"),
        (b"some text", "not an image. Accepted formats: JPEG, "),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    ],
)
def test_what_is_no_image_is_said_to_be_what_it_is(tmp_path, content, message):
    (tmp_path / "a.jpg").write_bytes(content)

    with pytest.raises(DataError, match=rf"a\.jpg: .*{message}"):
        probe_size(tmp_path / "a.jpg")


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_a_bomb_is_refused_from_its_header(tmp_path, side):
    Image.new("1", (side, side)).save(tmp_path / "a.png")

    with pytest.raises(DataError, match=rf"a\.png: the image has .* at most {MAX_PIXELS}"):
        probe_size(tmp_path / "a.png")


@pytest.mark.parametrize("size", [(9_000, 12_000), (65_535, 1), (1, 65_535)])
def test_sizes_within_the_limit_pass(tmp_path, size):
    Image.new("1", size[::-1]).save(tmp_path / "a.png")

    assert probe_size(tmp_path / "a.png") == size


def test_an_image_that_pillow_warns_of_is_within_the_limit(tmp_path):
    Image.new("1", (10_000, 10_000)).save(tmp_path / "a.png")

    assert probe_size(tmp_path / "a.png") == (10_000, 10_000)


@pytest.fixture
def frames():
    return [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "TIFF", "webp", "avif"])
def test_files_of_several_frames_are_noted(tmp_path, frames, suffix):
    path = tmp_path / f"a.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.png")

    lines = note_frames(tmp_path, [path, tmp_path / "b.png", tmp_path / "gone.png"])

    assert lines == (f"{tmp_path}: all frames or pages but the first of 1 images: 'a.{suffix}'",)


def test_of_many_files_of_several_frames_five_are_named(tmp_path, frames):
    paths = [tmp_path / f"{i}.gif" for i in range(6)]
    [frames[0].save(path, save_all=True, append_images=frames[1:]) for path in paths]

    assert note_frames(tmp_path, paths)[0].endswith(
        "of 6 images: '0.gif', '1.gif', '2.gif', '3.gif', '4.gif' ..."
    )


def test_single_pictures_are_not_noted(tmp_path, frames):
    frames[0].save(tmp_path / "a.gif")

    assert note_frames(tmp_path, [tmp_path / "a.gif"]) == ()


def test_stated_sizes_that_agree_pass(tmp_path):
    picture(16, 24).save(tmp_path / "a.png")

    refuse_other_sizes(tmp_path / "a.json", {tmp_path / "a.png": (16, 24)})


def test_a_stated_size_of_the_unturned_image_is_refused_with_the_reason(tmp_path):
    picture(16, 24).save(tmp_path / "a.png")

    with pytest.raises(DataError, match=r"(?s)as stored.*'a\.png' is 24x16, stated 16x24"):
        refuse_other_sizes(tmp_path / "a.json", {tmp_path / "a.png": (24, 16)})


def test_another_stated_size_is_refused(tmp_path):
    picture(16, 24).save(tmp_path / "a.png")

    with pytest.raises(DataError, match=r"'a\.png' is 24x16, stated 12x8"):
        refuse_other_sizes(tmp_path / "a.json", {tmp_path / "a.png": (8, 12)})

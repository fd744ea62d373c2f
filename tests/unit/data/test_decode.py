"""The decode policy: header first, EXIF turned, damaged files refused by name."""

import os
import socket
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.data.decode import decode_image
from distildet.data.headers import probe_size
from distildet.errors import DataError

# For each EXIF orientation the operation that makes the stored picture from the upright one.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def picture(height=16, width=24):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def pixels_of(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(tmp_path, suffix, orientation):
    upright = picture()
    stored = upright.transpose(STORED[orientation]) if STORED[orientation] is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    stored.save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))

    assert probe_size(path) == (16, 24)
    assert torch.equal(decode_image(path), pixels_of(upright))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_of_a_turned_jpeg_is_known_from_its_header(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(16, 24) if orientation <= 4 else picture(24, 16)
    stored.save(tmp_path / "a.jpg", exif=exif)

    assert probe_size(tmp_path / "a.jpg") == (16, 24)
    assert decode_image(tmp_path / "a.jpg").shape == (3, 16, 24)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB", "YCbCr"])
def test_opaque_kinds_become_what_pillow_makes_of_them(tmp_path, mode):
    image = picture().convert(mode)
    image.save(tmp_path / "a.tif")

    assert torch.equal(decode_image(tmp_path / "a.tif"), pixels_of(image))


def test_the_content_decides_not_the_ending(tmp_path):
    image = picture()
    image.save(tmp_path / "a.jpg", format="PNG")

    assert torch.equal(decode_image(tmp_path / "a.jpg"), pixels_of(image))


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("RGBA", (200, 100, 50, 0), (0, 0, 0)),
        ("RGBA", (200, 100, 50, 255), (200, 100, 50)),
        ("RGBA", (200, 100, 50, 51), (40, 20, 10)),  # 51 / 255 = 0.2
        ("LA", (200, 51), (40, 40, 40)),
    ],
)
def test_transparency_is_composited_on_black(tmp_path, mode, value, expected):
    Image.new(mode, (4, 4), value).save(tmp_path / "a.png")

    assert tuple(decode_image(tmp_path / "a.png")[:, 2, 2].tolist()) == expected


def test_a_transparent_palette_entry_is_black(tmp_path):
    image = picture().convert("P")
    image.save(tmp_path / "a.png", transparency=image.getpixel((3, 5)))

    assert decode_image(tmp_path / "a.png")[:, 5, 3].tolist() == [0, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")

    # 257 * 128 = 32896
    assert decode_image(tmp_path / f"a.{suffix}")[0].tolist() == [[0, 1, 128, 255]]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_grey_without_a_declared_range_is_refused(tmp_path, kind):
    Image.fromarray(np.ones((4, 4), dtype=kind)).save(tmp_path / "a.tif")

    with pytest.raises(DataError, match=r"a\.tif: found 32-bit grey .* 8 or 16 bits"):
        decode_image(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_of_several_frames_the_first_is_taken(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])

    pixels = decode_image(tmp_path / f"a.{suffix}")

    assert pixels.shape == (3, 8, 8)
    assert pixels[:, 4, 4].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "gif", "tif", "webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_file_is_refused_by_name(tmp_path, suffix, share):
    path = tmp_path / f"a.{suffix}"
    picture(64, 64).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(DataError, match=rf"a\.{suffix}: the (image is damaged|file is not an)"):
        decode_image(path)


def test_a_jpeg_without_its_last_two_bytes_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    picture(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:-2])

    with pytest.raises(DataError, match=r"a\.jpg: the image is damaged .*truncated"):
        decode_image(path)


def test_a_tiff_of_an_unknown_kind_is_said_to_be_one(tmp_path):
    # Bits per sample (tag 258) and sample format (339) of 64-bit float, which Pillow does not know.
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "a.tif")
    content = (tmp_path / "a.tif").read_bytes()
    bits = struct.pack("<HHIH", 258, 3, 1, 32)
    (tmp_path / "a.tif").write_bytes(content.replace(bits, struct.pack("<HHIH", 258, 3, 1, 64)))

    with pytest.raises(DataError, match=r"a\.tif: the file is a TIFF of a kind .* 8 or 16 bits"):
        decode_image(tmp_path / "a.tif")


def test_a_message_about_a_name_with_a_line_feed_is_one_line(tmp_path):
    (tmp_path / "a\nb.jpg").write_bytes(b"")

    with pytest.raises(DataError) as caught:
        decode_image(tmp_path / "a\nb.jpg")

    assert str(caught.value).splitlines() == [
        rf"{tmp_path}/a\nb.jpg: the file is empty. Copy or download it again."
    ]


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("a.jpg")

    with pytest.raises(DataError, match=r"a\.jpg: found a folder, pipe or device"):
        decode_image(tmp_path / "a.jpg")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="found a folder, pipe or device"):
        decode_image(tmp_path)


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")

    with pytest.raises(DataError, match=r"a\.jpg: found a folder, pipe or device"):
        decode_image(tmp_path / "a.jpg")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg: the image cannot be read \(No such file"):
        decode_image(tmp_path / "gone.jpg")


def test_a_name_that_no_file_system_holds_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"the image cannot be read \(embedded null"):
        decode_image(tmp_path / "a\0.jpg")


def test_a_gif_is_refused_by_the_size_that_its_header_states(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "a.gif")
    content = bytearray((tmp_path / "a.gif").read_bytes())
    content[6:10] = struct.pack("<HH", 65535, 65535)
    (tmp_path / "a.gif").write_bytes(content)

    with pytest.raises(DataError, match=r"a\.gif: the image has .* at most"):
        decode_image(tmp_path / "a.gif")


def test_a_large_photograph_is_decoded(tmp_path):
    # 12,000 x 9,000 pixels would take a second; the limit is tested on either side from headers.
    Image.new("L", (6000, 4500), 7).save(tmp_path / "a.jpg")

    assert decode_image(tmp_path / "a.jpg").shape == (3, 4500, 6000)


@pytest.mark.parametrize("size", [(1, 1), (2, 3000), (9, 9)])
def test_odd_sizes_are_decoded(tmp_path, size):
    picture(*size).save(tmp_path / "a.png")

    assert decode_image(tmp_path / "a.png").shape == (3, *size)

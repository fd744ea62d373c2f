import io

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.errors import DataError
from distildet.report.crops import COLUMNS, GAP, SIDE, crop_objects, draw_grid


@pytest.fixture
def noise(tmp_path):
    """A file of 300 x 200 pixels of noise, and these pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    return tmp_path / "noise.png", pixels


def test_a_crop_has_the_pixels_of_the_box_and_a_tenth_of_it_on_each_side(noise):
    path, pixels = noise

    # 80 x 40 with 8 and 4 around it: 96 x 48, the size of a crop, so that none is scaled.
    [crop] = crop_objects(path, torch.tensor([[100.0, 60.0, 180.0, 100.0]]))

    assert np.array_equal(np.asarray(crop), pixels[56:104, 92:188])


def test_a_crop_ends_where_the_image_does(noise):
    path, pixels = noise

    # 80 x 88 with 8 and 8.8 around it, of which the image has none at the left and the bottom.
    crops = crop_objects(path, torch.tensor([[0.0, 112.9, 80.0, 200.0], [292.0, 0.0, 300.0, 4.0]]))

    assert np.array_equal(np.asarray(crops[0]), np.asarray(resized(pixels[104:200, 0:88])))
    assert np.array_equal(np.asarray(crops[1]), np.asarray(resized(pixels[0:5, 291:300])))


def resized(pixels):
    height, width = pixels.shape[:2]
    scale = SIDE / max(height, width)
    return Image.fromarray(pixels).resize((round(scale * width), round(scale * height)))


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ([0.0, 0.0, 300.0, 200.0], (96, 64)),
        ([150.0, 0.0, 160.0, 200.0], (6, 96)),
        ([150.0, 20.0, 150.01, 180.0], (1, 96)),
        ([10.0, 10.0, 10.5, 10.5], (96, 96)),
    ],
)
def test_the_longer_side_of_a_crop_is_always_the_same(noise, box, size):
    [crop] = crop_objects(noise[0], torch.tensor([box]))

    assert crop.size == size


def test_crops_are_in_the_frame_after_exif_rotation(tmp_path):
    image = Image.new("RGB", (40, 20))
    image.paste("red", (0, 0, 10, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by a quarter: what was left is at the top
    image.save(tmp_path / "turned.png", exif=exif)

    [crop] = crop_objects(tmp_path / "turned.png", torch.tensor([[1.0, 1.0, 9.0, 9.0]]))

    assert (np.asarray(crop) == (255, 0, 0)).all()


def test_a_file_that_is_no_image_is_refused(tmp_path):
    (tmp_path / "page.jpg").write_text("<html></html>")

    with pytest.raises(DataError, match=r"page\.jpg"):
        crop_objects(tmp_path / "page.jpg", torch.zeros(1, 4))


def test_a_grid_has_every_crop_whole_at_its_place(noise):
    crops = [Image.new("RGB", (SIDE, 40), (place, 0, 0)) for place in range(COLUMNS + 2)]

    grid = np.asarray(Image.open(io.BytesIO(draw_grid(crops))))

    step, top = SIDE + GAP, (SIDE - 40) // 2
    assert grid.shape == (2 * step + GAP, COLUMNS * step + GAP, 3)
    for place in range(len(crops)):
        row, column = divmod(place, COLUMNS)
        cell = grid[GAP + row * step :, GAP + column * step :][:SIDE, :SIDE]
        assert (cell[top : top + 40] == (place, 0, 0)).all()
        assert (cell[:top] == 255).all()
        assert (cell[top + 40 :] == 255).all()
    assert (grid[GAP + step :, GAP + 2 * step :] == 255).all()


def test_a_grid_of_few_crops_is_no_wider_than_they_are():
    grid = Image.open(io.BytesIO(draw_grid([Image.new("RGB", (SIDE, SIDE))] * 2)))

    assert grid.size == (2 * (SIDE + GAP) + GAP, SIDE + 2 * GAP)

"""Drafts: JPEGs are decoded at a fraction of their size, and stay where they are."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.ops import clip_boxes_to_image

from distildet.data.decode import decode_image
from distildet.data.image_file import open_image
from distildet.data.transforms import (
    Augmentation,
    fit_view,
    plan_augmented,
    view_file,
)
from distildet.errors import DataError
from distildet.ops.frames import map_boxes

# Of which the width and the height are no multiples of 2, so that every draft is rounded up.
HEIGHT, WIDTH = 605, 803
BOX = torch.tensor([[211.0, 102.0, 643.0, 455.0]])


def store(path, *, orientation=1, height=HEIGHT, width=WIDTH):
    """Store a grey picture with a red rectangle so that a viewer turns it upright."""
    pixels = np.full((height, width, 3), 100, dtype=np.uint8)
    x1, y1, x2, y2 = BOX[0].int().tolist()
    pixels[y1:y2, x1:x2] = (200, 50, 50)
    turns = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[0x0112] = orientation
    stored = image if turns[orientation] is None else image.transpose(turns[orientation])
    stored.save(path, exif=exif, quality=95, subsampling=0)
    return path


def edges_of_red(view):
    """Edges of red as seen, to a part of a pixel by how red it is there, and as expected."""
    expected = clip_boxes_to_image(map_boxes(BOX, view.image_to_batch), view.size)[0]
    x, y = ((expected[:2] + expected[2:]) / 2).int().tolist()
    redness = (view.pixels[0] - view.pixels[1]) * 255 / 150  # [h, w], 1 inside
    row, column = redness[y], redness[:, x]
    seen = [x - row[:x].sum(), y - column[:y].sum(), x + row[x:].sum(), y + column[y:].sum()]
    return torch.stack(seen), expected


@pytest.mark.parametrize(
    ("scale", "longer_side"),
    [
        (1.0, 640),
        (0.26, 640),
        (0.25, 320),  # 2 * 0.25 * 640 = 320 pixels are needed
        (0.126, 320),
        (0.125, 160),
        (0.0625, 80),
        (0.001, 80),  # a draft of less than an eighth does not exist
    ],
)
def test_a_draft_has_twice_the_pixels_of_the_view(tmp_path, scale, longer_side):
    Image.new("RGB", (640, 480)).save(tmp_path / "a.jpg")

    with open_image(tmp_path / "a.jpg") as file:
        picture = file.picture(scale)

    assert file.size == picture.size == (480, 640)
    assert picture.pixels.shape == (3, longer_side * 3 // 4, longer_side)
    assert picture.scale == (longer_side / 640, longer_side / 640)
    assert picture.start == (0, 0)


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "tif", "jp2"])
def test_other_formats_have_no_draft(tmp_path, suffix):
    Image.new("RGB", (640, 480)).save(tmp_path / f"a.{suffix}")

    with open_image(tmp_path / f"a.{suffix}") as file:
        assert file.picture(0.1).pixels.shape == (3, 480, 640)


@pytest.mark.parametrize(
    ("orientation", "start"),
    [
        # 605 / 8 = 75.625 and 803 / 8 = 100.375 pixels are rounded up to 76 and 101.
        (1, (0, 0)),
        (2, (0, 0.625)),
        (3, (0.375, 0.625)),
        (4, (0.375, 0)),
        (5, (0, 0)),
        (6, (0, 0.625)),
        (7, (0.375, 0.625)),
        (8, (0.375, 0)),
    ],
)
def test_a_turned_draft_begins_where_its_partial_pixels_end(tmp_path, orientation, start):
    path = store(tmp_path / "a.jpg", orientation=orientation)

    with open_image(path) as file:
        picture = file.picture(0.05)

    assert picture.size == (HEIGHT, WIDTH)
    assert picture.pixels.shape == (3, 76, 101)
    assert picture.start == pytest.approx(start)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_size", [50, 96, 130, 200])
def test_a_rectangle_is_seen_where_the_matrix_says(tmp_path, orientation, image_size):
    path = store(tmp_path / "a.jpg", orientation=orientation)

    view = fit_view(path, image_size)

    assert max(view.size) == image_size
    assert view.image_size == (HEIGHT, WIDTH)
    seen, expected = edges_of_red(view)
    assert torch.allclose(seen, expected, atol=0.15)


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("seed", range(10))
def test_a_random_view_of_a_draft_shows_what_that_of_the_whole_shows(tmp_path, orientation, seed):
    path = store(tmp_path / "a.jpg", orientation=orientation)
    varied = Augmentation(zoom=(0.6, 0.9), colour=0.0)

    def plan(size):
        return plan_augmented(size, BOX, 120, varied, torch.Generator().manual_seed(seed))

    view = view_file(path, plan)

    planned = plan((HEIGHT, WIDTH))
    assert view.size == planned.size
    seen, expected = edges_of_red(view)
    assert torch.allclose(seen, expected, atol=0.15)


@pytest.mark.parametrize("size", [(1, 3000), (5, 3000), (3000, 2), (8, 8), (7, 9)])
def test_slender_and_tiny_jpegs_have_views(tmp_path, size):
    Image.new("RGB", size[::-1], (51, 51, 51)).save(tmp_path / "a.jpg")

    view = fit_view(tmp_path / "a.jpg", 32)

    assert max(view.size) == 32
    assert view.pixels.unique().tolist() == pytest.approx([0.2])


def test_views_of_drafts_differ_little_from_those_of_whole_images(tmp_path):
    # Waves of 25 to 60 pixels, of which a view at a quarter shows 6 to 15.
    rows, columns = torch.meshgrid(torch.arange(480), torch.arange(640), indexing="ij")
    waves = torch.sin(rows / 4) + torch.sin(columns / 5) + torch.sin((rows + columns) / 13)
    pixels = (128 + 40 * waves).byte()[..., None].expand(-1, -1, 3).numpy()  # [h, w, c]
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "a.jpg", quality=90)

    draft = fit_view(tmp_path / "a.jpg", 160)

    whole = fit_view(decode_image(tmp_path / "a.jpg"), 160)
    assert torch.equal(draft.image_to_batch, whole.image_to_batch)
    assert float((draft.pixels - whole.pixels).abs().mean()) < 1 / 255


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_cut_jpeg_is_refused_as_a_draft_too(tmp_path, share):
    content = store(tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: int(len(content) * share)])

    with pytest.raises(DataError, match=r"a\.jpg: the image is damaged .*truncated"):
        fit_view(tmp_path / "a.jpg", 64)


def test_a_mistake_of_the_caller_is_not_taken_for_a_damaged_image(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    with pytest.raises(KeyError, match="mine"):
        view_file(tmp_path / "a.png", lambda size: {}["mine"])

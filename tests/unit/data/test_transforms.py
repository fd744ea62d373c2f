"""Views of images: pixels and boxes must go to the same place."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distildet.data.image_file import Picture
from distildet.data.transforms import (
    Augmentation,
    View,
    fit_view,
    plan_augmented,
    view_picture,
    view_targets,
)
from distildet.errors import ConfigError
from distildet.ops.frames import map_boxes
from distildet.specs import InputFrame
from distildet.structures import Targets


def generator(seed):
    return torch.Generator().manual_seed(seed)


def augmented_view(pixels, boxes, image_size, augmentation, source):
    size = (pixels.shape[1], pixels.shape[2])
    plan = plan_augmented(size, boxes, image_size, augmentation, source)
    return view_picture(Picture(pixels=pixels, size=size), plan)


def targets_of(boxes, ignore=(), scores=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Targets(
        boxes=boxes,
        labels=torch.arange(len(boxes)),
        weights=torch.arange(len(boxes)) / 10,
        ignore=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
        known_classes=torch.ones(5, dtype=torch.bool),
        origin="teacher",
        scores=scores,
    )


def view_of(matrix, size=(100, 100)):
    return View(
        pixels=torch.zeros(3, *size),
        image_to_batch=torch.tensor(matrix, dtype=torch.float64),
        image_size=(200, 200),
    )


IDENTITY = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def extent_of_red(pixels):
    """Box of the pixels that are more red than grey."""
    red = (pixels[0] - pixels[1]) > 0.5
    rows, columns = torch.where(red.any(1))[0], torch.where(red.any(0))[0]
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((100, 200), 100, (50, 100)),
        ((200, 100), 50, (50, 25)),
        ((30, 40), 160, (120, 160)),
        ((1, 3000), 224, (1, 224)),
        ((1, 1), 64, (64, 64)),
    ],
)
def test_the_longer_side_fits(size, image_size, expected):
    view = fit_view(torch.zeros(3, *size, dtype=torch.uint8), image_size)

    assert view.size == expected
    assert view.image_size == size


def test_the_matrix_has_the_ratio_of_the_rounded_sizes():
    # 33 * 100 / 70 = 47.1 becomes 47 rows
    view = fit_view(torch.zeros(3, 33, 70, dtype=torch.uint8), 100)

    assert view.size == (47, 100)
    assert view.image_to_batch.tolist() == [[100 / 70, 0, 0], [0, 47 / 33, 0], [0, 0, 1]]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (InputFrame(height=60, width=100, is_filled=True), (60, 100)),
        # 100 / 200 binds: 50 x 100.
        (InputFrame(height=60, width=100, is_filled=False), (50, 100)),
        # 30 / 100 binds: 30 x 60.
        (InputFrame(height=30, width=100, is_filled=False), (30, 60)),
        ("original", (100, 200)),
    ],
)
def test_an_image_is_scaled_once_to_whatever_a_detector_wants(frame, expected):
    view = fit_view(torch.zeros(3, 100, 200, dtype=torch.uint8), frame)

    assert view.size == expected
    assert view.image_size == (100, 200)
    scale = [expected[1] / 200, expected[0] / 100]
    assert view.image_to_batch.diagonal().tolist() == [*scale, 1]


def test_an_image_at_its_own_size_keeps_its_pixels():
    pixels = torch.arange(3 * 5 * 7, dtype=torch.uint8).reshape(3, 5, 7)

    view = fit_view(pixels, "original")

    assert torch.equal((view.pixels * 255).round().to(torch.uint8), pixels)


def test_pixels_are_fractions():
    pixels = torch.full((3, 8, 8), 51, dtype=torch.uint8)

    view = fit_view(pixels, 8)

    assert view.pixels.dtype == torch.float32
    assert view.pixels.unique().tolist() == pytest.approx([0.2])


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(60, 140),
    width=st.integers(60, 140),
    x=st.floats(0.0, 0.6),
    y=st.floats(0.0, 0.6),
    zoom=st.sampled_from([(0.6, 0.6), (1.0, 1.0), (1.3, 1.3), (2.5, 2.5), (0.75, 1.6)]),
)
def test_an_object_is_seen_where_the_matrix_says(seed, height, width, x, y, zoom):
    x1, y1 = int(x * width), int(y * height)
    box = torch.tensor([[x1, y1, x1 + width // 3, y1 + height // 3]]).float()
    pixels = torch.full((3, height, width), 100, dtype=torch.uint8)
    pixels[0, y1 : y1 + height // 3, x1 : x1 + width // 3] = 255
    pixels[1:, y1 : y1 + height // 3, x1 : x1 + width // 3] = 0

    view = augmented_view(pixels, box, 96, Augmentation(zoom=zoom, colour=0.0), generator(seed))

    seen = view_targets(targets_of(box.tolist()), view)
    shown = torch.cat([seen.boxes, seen.ignore])
    assert max(view.size) <= 96
    assert torch.allclose(shown[0], extent_of_red(view.pixels), atol=2.0)


@given(seed=st.integers(0, 10_000), x=st.floats(0, 190), y=st.floats(0, 90))
def test_the_centre_of_an_object_stays_in_the_view(seed, x, y):
    pixels = torch.zeros(3, 100, 200, dtype=torch.uint8)
    boxes = torch.tensor([[x, y, x + 10, y + 10]])

    view = augmented_view(pixels, boxes, 64, Augmentation(zoom=(3.0, 3.0)), generator(seed))

    x1, y1, x2, y2 = map_boxes(boxes, view.image_to_batch)[0].tolist()
    assert -1e-3 <= (x1 + x2) / 2 <= view.size[1] + 1e-3
    assert -1e-3 <= (y1 + y2) / 2 <= view.size[0] + 1e-3


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 2)])
@pytest.mark.parametrize("zoom", [0.01, 1.0, 100.0])
def test_tiny_images_have_views(size, zoom):
    pixels = torch.zeros(3, *size, dtype=torch.uint8)

    view = augmented_view(
        pixels, torch.zeros(0, 4), 32, Augmentation(zoom=(zoom, zoom)), generator(0)
    )

    assert min(view.size) >= 1
    assert max(view.size) <= 32


def test_a_view_is_a_pure_function_of_its_generator():
    pixels = torch.randint(0, 256, (3, 50, 60), generator=generator(1)).to(torch.uint8)
    views = [
        augmented_view(pixels, torch.zeros(0, 4), 64, Augmentation(), generator(seed))
        for seed in (3, 3, 4)
    ]

    assert torch.equal(views[0].pixels, views[1].pixels)
    assert views[0].size != views[2].size


def test_every_view_is_mirrored_at_probability_one_and_none_at_zero():
    pixels = torch.zeros(3, 8, 8, dtype=torch.uint8)
    plain = {"zoom": (1.0, 1.0), "colour": 0.0}
    signs = [
        augmented_view(
            pixels, torch.zeros(0, 4), 8, Augmentation(flip=flip, **plain), generator(seed)
        ).image_to_batch[0, 0]
        for flip in (1.0, 0.0)
        for seed in range(5)
    ]

    assert signs == [-1.0] * 5 + [1.0] * 5


def test_colours_vary_by_at_most_the_stated_share():
    pixels = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    augmentation = Augmentation(flip=0.0, zoom=(1.0, 1.0), colour=0.2)

    # A uniform grey image has no contrast and no saturation: only brightness acts.
    values = [
        augmented_view(pixels, torch.zeros(0, 4), 4, augmentation, generator(seed)).pixels[0, 0, 0]
        for seed in range(50)
    ]

    assert 79 / 255 <= min(values) < 90 / 255
    assert 110 / 255 < max(values) <= 121 / 255


def test_bright_images_are_not_burnt_out():
    pixels = torch.full((3, 4, 4), 230, dtype=torch.uint8)
    augmentation = Augmentation(flip=0.0, zoom=(1.0, 1.0), colour=0.5)

    values = [
        augmented_view(pixels, torch.zeros(0, 4), 4, augmentation, generator(seed)).pixels.max()
        for seed in range(20)
    ]

    assert max(values) <= 231 / 255


def test_boxes_are_mapped_and_clipped_to_the_view():
    view = view_of([[0.5, 0, -10], [0, 0.5, 0], [0, 0, 1]])

    seen = view_targets(targets_of([[0, 40, 100, 80]]), view)

    # x: 0*.5-10 -> clipped to 0, 100*.5-10 = 40; visible 40/50 of the width
    assert seen.boxes.tolist() == [[0, 20, 40, 40]]


@pytest.mark.parametrize(
    ("right", "num_boxes", "num_ignored"),
    [(40.0, 1, 0), (30.0, 1, 0), (29.0, 0, 1), (1.0, 0, 1), (0.9, 0, 0), (-5.0, 0, 0)],
)
def test_boxes_of_which_little_is_visible_are_ignored(right, num_boxes, num_ignored):
    # 100 wide, of which `right` are visible, the threshold is 0.3
    box = [right - 100, 10, right, 50]

    seen = view_targets(targets_of([box]), view_of(IDENTITY))

    assert (len(seen.boxes), len(seen.ignore)) == (num_boxes, num_ignored)


def test_boxes_below_one_pixel_are_dropped():
    boxes = [[10, 10, 10.9, 40], [10, 10, 11.1, 40]]

    seen = view_targets(targets_of(boxes), view_of(IDENTITY))

    assert seen.labels.tolist() == [1]
    assert len(seen.ignore) == 0


def test_labels_and_weights_stay_with_their_boxes():
    boxes = [[10, 10, 20, 20], [-95, 10, 5, 20], [30, 30, 50, 50]]

    seen = view_targets(targets_of(boxes, ignore=[[90, 90, 110, 110]]), view_of(IDENTITY))

    assert seen.labels.tolist() == [0, 2]
    assert seen.weights.tolist() == pytest.approx([0.0, 0.2])
    assert seen.ignore.tolist() == [[90, 90, 100, 100], [0, 10, 5, 20]]
    assert seen.origin == "teacher"


@pytest.mark.parametrize(
    "matrix",
    [[[1, 0, -40], [0, 1, 0], [0, 0, 1]], [[-1, 0, 80], [0, 1, 0], [0, 0, 1]]],
    ids=["crop", "crop and flip"],
)
def test_scores_stay_with_their_boxes(matrix):
    # The crop begins at x = 40, or ends at x = 80: the first or the last box is outside.
    boxes = [[10, 10, 20, 20], [45, 10, 65, 20], [90, 10, 120, 20]]
    targets = targets_of(boxes, scores=torch.tensor([0.5, 0.6, 0.7]))

    seen = view_targets(targets, view_of(matrix))

    assert len(seen.boxes) == 2
    assert seen.scores.equal(targets.scores[seen.labels])


def test_no_boxes_give_no_targets():
    seen = view_targets(targets_of([]), view_of(IDENTITY))

    assert seen.boxes.shape == (0, 4)
    assert seen.ignore.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, r"augmentation\.flip is 1\.5, accepted is 0 to 1"),
        ({"zoom": (0, 1)}, r"augmentation\.zoom is \(0, 1\)"),
        ({"zoom": (2, 1)}, r"augmentation\.zoom is \(2, 1\).*the smaller one first"),
        ({"zoom": (1, float("inf"))}, r"augmentation\.zoom"),
        ({"colour": 1}, r"augmentation\.colour is 1, accepted is 0 to 1 \(1 excluded\)"),
    ],
)
def test_augmentation_out_of_range_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Augmentation(**options)

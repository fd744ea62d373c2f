import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.errors import ConfigError, DataError, MissingPartError, ResourceError
from distildet.structures import DETECTIONS, ImageBatch

HEIGHT, WIDTH = 40, 60
SMALL = {"backbone": "test_efficientnet", "backbone_levels": ("C3", "C4"), "neck_channels": 8}


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def raise_out_of_memory(*_):
    raise torch.OutOfMemoryError


def as_batch(pixels, sizes):
    return ImageBatch(
        pixels=pixels,
        sizes=torch.tensor(sizes),
        image_sizes=torch.tensor(sizes),
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(sizes), 1, 1),
        image_ids=tuple(str(i) for i in range(len(sizes))),
    )


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    assert found.boxes.equal(expected.boxes)
    assert found.scores.equal(expected.scores)
    assert found.labels.equal(expected.labels)


@pytest.mark.parametrize(
    "given",
    [
        lambda array: torch.from_numpy(array).permute(2, 0, 1),
        lambda array: torch.from_numpy(array).permute(2, 0, 1) / 255,
        lambda array: torch.from_numpy(array).permute(2, 0, 1).double() / 255,
        lambda array: array[::-1, ::-1].copy()[::-1, ::-1],  # negative strides
        np.asfortranarray,
    ],
    ids=["uint8 tensor", "float tensor", "double tensor", "mirrored view", "Fortran order"],
)
def test_the_same_image_in_any_form_gives_the_same_detections(tiny, array, given):
    (expected,) = tiny.predict([array])

    (found,) = tiny.predict([given(array)])

    assert_equal(found, expected)


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_a_file_gives_the_detections_of_its_pixels(tiny, array, tmp_path, kind):
    Image.fromarray(array).save(tmp_path / "image.png")

    (found,) = tiny.predict([kind(tmp_path / "image.png")])

    assert_equal(found, tiny.predict([array])[0])


def test_boxes_lie_in_the_frame_of_the_image(tiny, array):
    large = np.repeat(np.repeat(array, 4, axis=0), 4, axis=1)

    (found,) = tiny.predict([large])

    assert found.boxes.min() >= 0
    assert found.boxes[:, 2].max() <= 4 * WIDTH
    assert found.boxes[:, 3].max() <= 4 * HEIGHT
    assert found.boxes[:, 2].max() > WIDTH
    assert found.scores.equal(found.scores.sort(descending=True).values)


def test_one_result_an_image_whatever_the_batch_size(tiny, array):
    images = [array, array[:20], array[:, :30], array, array[::2]]

    one_by_one = tiny.predict(images, batch_size=1)
    together = tiny.predict(images, batch_size=4)

    assert [len(found) > 0 for found in one_by_one] == [True] * 5
    torch.testing.assert_close(together[4].scores, one_by_one[4].scores)
    torch.testing.assert_close(together[4].boxes, one_by_one[4].boxes, atol=1e-3, rtol=1e-4)


@pytest.fixture
def of_small_memory(tiny):
    """A detector with room for one image."""

    def run_out(module, args):
        if len(args[0]) > 1:
            raise torch.OutOfMemoryError

    tiny.register_forward_pre_hook(run_out)
    return tiny


def test_where_memory_runs_out_fewer_images_go_together(of_small_memory, array):
    images = [array, array[:20], array[:, :30]]

    together = of_small_memory.predict(images, batch_size=3)

    one_by_one = of_small_memory.predict(images, batch_size=1)
    assert [len(found) for found in together] == [len(found) for found in one_by_one]


def test_an_image_too_large_for_the_memory_is_named(make_detector):
    detector = make_detector()
    detector.register_forward_pre_hook(raise_out_of_memory)

    with pytest.raises(ResourceError, match=r"memory of cpu is too small for the image 0 at"):
        detector.predict([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])


def test_no_image_gives_no_result(tiny):
    assert tiny.predict([]) == []


@pytest.mark.parametrize("is_training", [True, False])
def test_predicting_leaves_mode_weights_and_statistics(tiny, array, is_training):
    tiny.train(is_training)
    before = {name: value.clone() for name, value in tiny.state_dict().items()}

    tiny.predict([array])

    assert tiny.training is is_training
    torch.testing.assert_close(tiny.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((HEIGHT, WIDTH), np.uint8),
        np.zeros((HEIGHT, WIDTH, 4), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), np.float32),
        np.zeros((2, HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((0, WIDTH, 3), np.uint8),
        np.zeros((HEIGHT, 0, 3), np.uint8),
        np.zeros((HEIGHT, WIDTH, 3), object),
        torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.uint8),
        torch.zeros(3, HEIGHT, WIDTH, dtype=torch.int64),
        torch.full((3, HEIGHT, WIDTH), 255.0),
        torch.full((3, HEIGHT, WIDTH), -0.1),
        torch.full((3, HEIGHT, WIDTH), float("nan")),
        None,
        b"bytes",
    ],
    ids=lambda image: f"{type(image).__name__}-{getattr(image, 'shape', '')}",
)
def test_what_is_no_image_is_refused_by_its_place(tiny, array, image):
    with pytest.raises(DataError, match=r"image 1 is of .*Accepted: files, arrays \[height"):
        tiny.predict([array, image])


@pytest.mark.parametrize("path", ["image.png", b"image.png"])
def test_a_single_file_is_not_taken_for_a_list(tiny, path):
    with pytest.raises(DataError, match=r"Give a list|Accepted: files"):
        tiny.predict(path)


def test_a_missing_file_is_named(tiny):
    with pytest.raises(DataError, match=r"missing\.png: the image cannot be read"):
        tiny.predict(["missing.png"])


def test_a_batch_size_below_1_is_refused(tiny, array):
    with pytest.raises(ConfigError, match=r"batch_size is 0\. Accepted: 1 or more"):
        tiny.predict([array], batch_size=0)


def test_a_failure_restores_the_training_mode(tiny):
    tiny.train()

    with pytest.raises(DataError):
        tiny.predict([None])

    assert tiny.training


def test_normalised_pixels_have_mean_and_std_taken_out_and_zero_padding(tiny):
    batch = as_batch(torch.ones(1, 3, 4, 6), [(2, 3)])
    mean, std = torch.tensor(tiny.spec.mean), torch.tensor(tiny.spec.std)

    pixels = tiny.normalise(batch)

    expected = torch.zeros(1, 3, 4, 6)
    expected[0, :, :2, :3] = ((1 - mean) / std)[:, None, None]
    torch.testing.assert_close(pixels, expected)


def test_a_part_that_the_detector_has_not_is_refused_with_those_it_has(tiny):
    with pytest.raises(
        MissingPartError, match=r"'retinanet' cannot return queries\. It has: dense"
    ):
        tiny.wanted({DETECTIONS, "queries"})


def test_frozen_batch_norm_stays_in_eval_mode_and_without_gradient(tiny):
    norms = [m for m in tiny.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    tiny.freeze_batch_norm()
    tiny.train()

    assert norms
    assert not any(norm.training for norm in norms)
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())
    assert tiny.head.training
    assert all(p.requires_grad for p in tiny.head.parameters())


@pytest.mark.parametrize("family", ["retinanet", "fcos", "faster_rcnn"])
def test_numbers_that_are_not_finite_are_told_from_an_image_without_objects(family):
    torch.manual_seed(0)
    detector = build_detector(family, classes=ClassList(("a",)), **SMALL, score_floor=0.0).eval()
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels[1, 0, 5, 5] = float("nan")
    batch = as_batch(pixels, [(64, 64), (64, 64)])

    with torch.no_grad():
        sound, broken = detector(batch, want={DETECTIONS}).detections

    assert sound.is_finite
    assert len(sound)
    assert not broken.is_finite
    assert not broken.above(0.5).is_finite


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
@pytest.mark.parametrize("channels", [2, 8, 16, 32, 96])
def test_a_level_of_one_cell_of_a_single_image_is_normalised(family, channels):
    options = {**SMALL, "neck_channels": channels, "head_norm": "group", "head_depth": 1}
    detector = build_detector(
        family, classes=ClassList(("a",)), **options, extra_levels=2, image_size=64
    )

    (found,) = detector.predict([torch.zeros(3, 64, 64, dtype=torch.uint8)])

    assert found.is_finite


@pytest.mark.parametrize("family", ["retinanet", "fcos", "faster_rcnn"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck_norm": "group"}, "neck_norm is 'group'. Input should be 'none' or 'batch'"),
        ({"extra_levels_from": "bakcbone"}, "extra_levels_from is 'bakcbone'"),
        ({"max_detections": 10.5}, "max_detections is 10.5. Input should be a valid integer"),
        ({"pretrained": "weights.pth"}, "pretrained is 'weights.pth'.*Path"),
    ],
)
def test_options_of_another_type_are_refused(family, options, message):
    with pytest.raises(ConfigError, match=f"{family} option {message}"):
        build_detector(family, classes=ClassList(("a",)), **{**SMALL, **options})


@pytest.mark.parametrize("family", ["retinanet", "faster_rcnn"])
def test_anchors_of_no_size_are_refused(family):
    with pytest.raises(ConfigError, match=r"anchor_scale is 0.1, which makes anchors of no size"):
        build_detector(family, classes=ClassList(("a",)), **SMALL, anchor_scale=0.1)

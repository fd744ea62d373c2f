"""A detector that has room for a few images, against the same detector with room for all."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.retinanet import RetinaNet
from distildet.errors import ResourceError
from distildet.evaluation.detect_dataset import predictor
from distildet.structures import ImageBatch

CPU = torch.device("cpu")


class SmallMemory(RetinaNet):
    """Has no room for more than `largest` images at once, and counts its passes."""

    largest = 8
    passes = 0

    def forward(self, batch, targets=None, **options):
        self.passes += 1
        if len(batch) > self.largest:
            raise torch.OutOfMemoryError
        return super().forward(batch, targets, **options)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    detector = SmallMemory(
        ClassList(("a", "b")),
        backbone="test_efficientnet",
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        score_floor=0.0,
        max_detections=20,
    )
    torch.nn.init.normal_(detector.head.classification_head.cls_logits.weight, std=3.0)
    return detector


@pytest.fixture
def batch():
    sizes = torch.tensor([[64, 96], [48, 96], [64, 40], [64, 96], [20, 20]])
    return ImageBatch(
        pixels=torch.rand(5, 3, 64, 96, generator=torch.Generator().manual_seed(0)),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(5, 1, 1),
        image_ids=tuple("abcde"),
    )


@pytest.mark.parametrize(("largest", "passes"), [(4, 1 + 3), (2, 1 + 3), (1, 2 + 5)])
def test_where_memory_runs_out_smaller_batches_find_the_same(detector, batch, largest, passes):
    expected = predictor(detector, CPU)(batch)
    detector.largest, detector.passes = largest, 0

    found = predictor(detector, CPU)(batch)

    assert detector.passes == passes
    assert [len(d) for d in found] == [20] * 5
    for few, many in zip(found, expected, strict=True):
        torch.testing.assert_close(few.boxes, many.boxes, rtol=0, atol=1e-4)
        assert torch.equal(few.labels, many.labels)


def test_the_smaller_number_is_kept(detector, batch):
    detector.largest = 2
    predict = predictor(detector, CPU)
    predict(batch)
    detector.passes = 0

    predict(batch)

    assert detector.passes == 3


def test_memory_too_small_for_one_image_is_an_error_that_names_it(detector, batch):
    detector.largest = 0

    with pytest.raises(ResourceError, match=r"too small for the image a at 64x96 pixels"):
        predictor(detector, CPU)(batch)


def test_in_half_precision_nearly_the_same_is_found(detector, batch):
    full, half = predictor(detector, CPU)(batch), predictor(detector, CPU, "bf16")(batch)

    # Not the same to the last bit, but the best box lies where it lay.
    assert not torch.equal(half[0].boxes, full[0].boxes)
    torch.testing.assert_close(half[0].boxes[0], full[0].boxes[0], rtol=0, atol=1.0)
    torch.testing.assert_close(half[0].scores[0], full[0].scores[0], rtol=0, atol=0.02)
    assert half[0].boxes.dtype == half[0].scores.dtype == torch.float32

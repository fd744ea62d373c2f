"""A detector that has room for a few images, against the same detector with room for all."""

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.data.dataset import Sample
from distildet.detectors.retinanet import RetinaNet
from distildet.errors import DataError, InterruptedRunError, ResourceError
from distildet.evaluation import detect_dataset as detect_dataset_module
from distildet.evaluation.detect_dataset import detect_dataset, predictor
from distildet.ops.processes import rank
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


@pytest.fixture
def samples(tmp_path):
    """Five images of several shapes."""
    sizes = {"d": (64, 48), "a": (40, 64), "c": (64, 20), "b": (64, 48), "e": (30, 30)}
    numbers = np.random.default_rng(0)
    for name, (width, height) in sizes.items():
        pixels = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return [Sample(id=name, path=tmp_path / f"{name}.png") for name in sizes]


@pytest.fixture
def detect(detector, samples):
    def run(**options):
        return detect_dataset(
            detector, samples, **{"batch_size": 2, "workers": 0, "device": CPU, **options}
        )

    return run


def as_lists(detections):
    return {
        name: (found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
        for name, found in detections.items()
    }


def test_a_dataset_is_detected_in_its_order_whatever_the_batches(detect, samples):
    told = []

    found = detect(progress=lambda *done: told.append(done))

    alone = detect(batch_size=1)
    assert list(found) == ["d", "a", "c", "b", "e"]
    assert [len(one) for one in found.values()] == [20] * 5
    assert told == [(2, 5), (4, 5), (5, 5)]
    # The two of equal shape share a batch of that shape: c d | b e | a
    torch.testing.assert_close(found["a"].boxes, alone["a"].boxes)


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_find_what_one_finds_and_all_have_it(detect, in_processes, count):
    expected = as_lists(detect())

    results = in_processes(lambda: as_lists(detect(workers=1)), count)

    assert results == [expected] * count
    assert [list(result) for result in results] == [["d", "a", "c", "b", "e"]] * count


def test_an_image_that_cannot_be_decoded_ends_all_processes(detect, samples, in_processes):
    samples[0].path.write_bytes(b"")

    results = in_processes(detect)

    assert [type(error) for error in results] == [DataError] * 2
    assert "d.png: the file is empty" in str(results[0])
    with pytest.raises(DataError, match=r"d\.png: the file is empty"):
        detect()


def test_a_signal_to_one_process_ends_the_others_after_their_round(
    detector, detect, in_processes, monkeypatch
):
    monkeypatch.setattr(detect_dataset_module, "BATCHES_AT_ONCE", 1)
    detector.passes = 0

    def stop(done, total):
        if rank() == 0:
            raise InterruptedRunError("Stopped by SIGTERM.", exit_code=143)

    def stopped():
        with pytest.raises(InterruptedRunError, match="Stopped by SIGTERM"):
            detect(batch_size=1, progress=stop)
        return detector.passes

    # Process 0 has three of the five images, and process 1 two.
    assert in_processes(stopped) == [1, 1]


def test_memory_that_runs_out_in_one_process_halves_its_batches_alone(
    detector, detect, in_processes
):
    expected = detect()

    def detect_with_little_memory():
        detector.largest, detector.passes = (1, 8)[rank()], 0
        return detect(), detector.passes

    results = in_processes(detect_with_little_memory)

    # Process 0 has a batch of two and one of one: 1 + 2 + 1 passes. Process 1 has one of two.
    assert [passes for _, passes in results] == [4, 1]
    for name, few in results[1][0].items():
        torch.testing.assert_close(few.boxes, expected[name].boxes, rtol=0, atol=1e-4)
        assert torch.equal(few.labels, expected[name].labels)

import dataclasses

import pytest
import torch

from distildet.structures import (
    PARTS,
    Detections,
    DetectorOutput,
    ImageBatch,
    Targets,
    move_targets,
)

META = torch.device("meta")


@pytest.fixture
def detections():
    return Detections(
        boxes=torch.arange(12.0).reshape(3, 4),
        scores=torch.tensor([0.9, 0.5, 0.1]),
        labels=torch.tensor([2, 0, 1]),
        probs=torch.eye(3),
    )


def test_a_batch_counts_its_images_and_moves_only_its_pixels():
    batch = ImageBatch(
        pixels=torch.zeros(2, 3, 4, 4),
        sizes=torch.tensor([[4, 4], [3, 4]]),
        image_sizes=torch.tensor([[4, 4], [3, 4]]),
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(2, 1, 1),
        image_ids=("a", "b"),
    )

    moved = batch.to(META)

    assert len(batch) == 2
    assert moved.pixels.device == META
    assert moved.sizes is batch.sizes
    assert moved.image_to_batch is batch.image_to_batch
    assert moved.image_ids == ("a", "b")


def test_pixels_come_in_the_layout_of_convolutions_and_keep_their_values():
    pixels = torch.rand(2, 3, 4, 5)
    batch = ImageBatch(
        pixels=pixels,
        sizes=torch.tensor([[4, 5], [4, 5]]),
        image_sizes=torch.tensor([[4, 5], [4, 5]]),
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(2, 1, 1),
        image_ids=("a", "b"),
    )

    moved = batch.to(torch.device("cpu"))

    assert moved.pixels.is_contiguous(memory_format=torch.channels_last)
    assert moved.pixels.equal(pixels)
    assert moved.to(torch.device("cpu")).pixels is moved.pixels


def targets_of(count, ignored, origin, *, has_scores=False):
    return Targets(
        boxes=torch.rand(count, 4),
        labels=torch.arange(count),
        weights=torch.rand(count),
        ignore=torch.rand(ignored, 4),
        known_classes=torch.tensor([True, count > 1]),
        origin=origin,
        scores=torch.rand(count) if has_scores else None,
    )


def tensors_of(targets):
    return [v for v in vars(targets).values() if isinstance(v, torch.Tensor)]


def test_targets_move_every_tensor_and_keep_shapes_types_and_origin():
    targets = [
        targets_of(2, 1, "teacher", has_scores=True),
        targets_of(0, 0, "human"),
        targets_of(3, 2, "teacher", has_scores=True),
    ]

    moved = move_targets(targets, META)

    for before, after in zip(targets, moved, strict=True):
        assert {tensor.device for tensor in tensors_of(after)} == {META}
        assert [t.shape for t in tensors_of(after)] == [t.shape for t in tensors_of(before)]
        assert [t.dtype for t in tensors_of(after)] == [t.dtype for t in tensors_of(before)]
        assert after.origin == before.origin


def test_moved_targets_keep_their_values():
    # "cpu:0" is the same place by another name, so that the values can be read after the move.
    targets = [
        targets_of(2, 1, "teacher", has_scores=True),
        targets_of(0, 0, "human"),
        targets_of(3, 2, "teacher", has_scores=True),
    ]

    moved = move_targets(targets, torch.device("cpu", 0))

    for before, after in zip(targets, moved, strict=True):
        assert all(map(torch.equal, tensors_of(after), tensors_of(before)))
        assert after.boxes is not before.boxes


@pytest.mark.parametrize(
    ("which", "kept"), [(torch.tensor([True, False, True]), [0, 2]), (torch.tensor([2, 0]), [2, 0])]
)
def test_chosen_targets_keep_what_belongs_to_their_boxes(which, kept):
    targets = targets_of(3, 2, "teacher", has_scores=True)

    chosen = targets.chosen(which)

    assert chosen.boxes.equal(targets.boxes[kept])
    assert chosen.labels.tolist() == kept
    assert chosen.weights.equal(targets.weights[kept])
    assert chosen.scores.equal(targets.scores[kept])
    assert chosen.ignore is targets.ignore


def test_chosen_targets_without_scores_have_none():
    assert targets_of(3, 2, "human").chosen(torch.tensor([1])).scores is None


def test_targets_that_are_there_are_not_copied():
    targets = [targets_of(2, 1, "human")]

    assert move_targets(targets, torch.device("cpu"))[0] is targets[0]


def test_no_targets_are_moved_to_none():
    assert move_targets([], META) == []


@pytest.mark.parametrize(
    ("which", "labels"),
    [
        (torch.tensor([True, False, True]), [2, 1]),
        (torch.tensor([1, 0]), [0, 2]),
        (torch.zeros(3, dtype=torch.bool), []),
    ],
)
def test_chosen_takes_every_field_in_the_given_order(detections, which, labels):
    chosen = detections.chosen(which)

    assert chosen.labels.tolist() == labels
    assert chosen.boxes.tolist() == detections.boxes[which].tolist()
    assert chosen.scores.tolist() == detections.scores[which].tolist()
    assert chosen.probs.tolist() == detections.probs[which].tolist()
    assert len(chosen) == len(labels)


def test_chosen_detections_without_probs_have_none(detections):
    without = dataclasses.replace(detections, probs=None)

    assert without.chosen(torch.tensor([0])).probs is None


@pytest.mark.parametrize(("threshold", "count"), [(0.0, 3), (0.5, 2), (0.51, 1), (0.95, 0)])
def test_above_includes_the_threshold_itself(detections, threshold, count):
    assert len(detections.above(threshold)) == count


def test_an_output_without_parts_is_empty():
    output = DetectorOutput()

    assert (output.features, output.dense, output.losses, output.detections) == ({}, None, {}, None)


def test_structures_are_frozen(detections):
    with pytest.raises(dataclasses.FrozenInstanceError):
        detections.scores = torch.zeros(3)


def test_the_vocabulary_of_parts_is_the_reviewed_list():
    assert sorted(PARTS) == [
        *("dense", "detections", "features.backbone", "features.head", "features.neck"),
        *("losses", "queries", "regions"),
    ]

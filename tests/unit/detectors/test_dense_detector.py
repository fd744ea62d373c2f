"""Oracle: one box that is known to fit one prior."""

import pytest
import torch
from torchvision.ops import box_iou

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.structures import BACKGROUND, DENSE, LOSSES, ImageBatch, Targets

SIDE = 64


def make_detector(family):
    torch.manual_seed(0)
    return build_detector(
        family,
        classes=ClassList(("bus", "car")),
        backbone="test_efficientnet",
        image_size=SIDE,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        head_norm="group",
    ).eval()


def batch_of_two():
    sizes = torch.full((2, 2), SIDE)
    return ImageBatch(
        pixels=torch.rand(2, 3, SIDE, SIDE),
        sizes=sizes,
        image_sizes=sizes,
        image_to_batch=torch.eye(3, dtype=torch.float64).repeat(2, 1, 1),
        image_ids=("a", "b"),
    )


def targets_of(*images):
    return [
        Targets(
            boxes=boxes,
            labels=torch.ones(len(boxes), dtype=torch.int64),
            weights=torch.ones(len(boxes)),
            ignore=torch.zeros(0, 4),
            known_classes=torch.ones(2, dtype=torch.bool),
            origin="human",
        )
        for boxes in images
    ]


# 32 x 32 pixels around a point of both grids.
BOX = torch.tensor([[16.0, 16.0, 48.0, 48.0]])


@pytest.mark.parametrize("want", [{DENSE}, {DENSE, LOSSES}])
def test_an_anchor_has_the_label_of_the_box_that_it_overlaps_by_half(want):
    dense = make_detector("retinanet")(batch_of_two(), targets_of(BOX, BOX[:0]), want=want).dense

    first, second = torch.cat(dense.matched_labels, dim=1)
    overlaps = box_iou(torch.cat(dense.priors), BOX)[:, 0]
    assert [len(level[0]) for level in dense.matched_labels] == [len(p) for p in dense.priors]
    assert torch.where(first >= 0)[0].tolist() == torch.where(overlaps >= 0.5)[0].tolist()
    assert first[overlaps.argmax()] == 1
    assert (second == BACKGROUND).all()


def test_the_location_at_the_centre_of_a_box_has_its_label():
    dense = make_detector("fcos")(batch_of_two(), targets_of(BOX, BOX[:0]), want={DENSE}).dense

    first, second = dense.matched_labels[0]
    centers = (dense.priors[0][:, :2] + dense.priors[0][:, 2:]) / 2
    is_central = (centers - 32).abs().amax(1) < 1.5 * 8
    assert first.tolist() == torch.where(is_central, 1, BACKGROUND).tolist()
    assert (second == BACKGROUND).all()


@pytest.mark.parametrize("family", ["retinanet", "fcos"])
def test_without_targets_nothing_is_matched(family):
    assert make_detector(family)(batch_of_two(), want={DENSE}).dense.matched_labels is None

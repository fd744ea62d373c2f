"""Regions on a teacher's ignore regions: a Faster R-CNN shows them to losses and learns none."""

from dataclasses import replace

import pytest
import torch
from torchvision.ops import box_iou

from distildet.classes import ClassList
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.ops.draws import with_step_seed
from distildet.structures import LOSSES, REGIONS

EVERY = 10**6  # regions: more than there are


def make_small(**options):
    torch.manual_seed(0)
    return FasterRCNN(
        ClassList(("a", "b")),
        backbone="test_efficientnet",
        backbone_levels=("C3", "C4"),
        neck_channels=8,
        anchor_scale=2.0,
        region_channels=8,
        train_proposals=100,
        **options,
    )


@pytest.fixture
def undecided_about(as_batch, as_targets):
    """Two images, and targets without boxes that have some of the proposals as ignore regions."""
    torch.manual_seed(0)
    batch = as_batch([torch.rand(3, 64, 64) for _ in range(2)], (64, 64))
    no_box = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}

    def make(which, origin="teacher"):
        nothing = as_targets([no_box] * 2, num_classes=2, origin=origin)
        ours = make_small(region_samples=EVERY).eval()
        proposals = ours(batch, nothing, want={LOSSES, REGIONS}).regions.proposals
        return batch, [replace(nothing[0], ignore=boxes[which]) for boxes in proposals]

    return make


def regions_on(ignore, regions):
    return box_iou(ignore, regions).amax(0) >= 0.5


def test_a_teachers_undecided_object_is_in_the_regions(undecided_about):
    batch, targets = undecided_about(slice(5, 6))
    ours = make_small(region_samples=EVERY).eval()

    proposals = ours(batch, targets, want={LOSSES, REGIONS}).regions.proposals

    for boxes, target in zip(proposals, targets, strict=True):
        on = regions_on(target.ignore, boxes)
        assert on.sum() >= 1
        assert (boxes[on] == target.ignore).all(1).any()
        # After the others.
        assert on.equal(on.sort().values)


def test_a_humans_ignore_region_has_no_regions(undecided_about):
    batch, targets = undecided_about(slice(5, 6), origin="human")
    ours = make_small(region_samples=EVERY).eval()

    proposals = ours(batch, targets, want={LOSSES, REGIONS}).regions.proposals

    for boxes, target in zip(proposals, targets, strict=True):
        assert len(boxes) > 0
        assert not regions_on(target.ignore, boxes).any()


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_undecided_regions_leave_the_losses_and_their_gradients_as_they_are(norm, undecided_about):
    # Many proposals are undecided: 2 = int(8 * 0.25) an image are taken in addition to 8.
    batch, targets = undecided_about(slice(0, 40))

    def learn(want):
        ours = make_small(region_samples=8, region_convs=1, region_norm=norm).train()
        torch.manual_seed(5)
        output = ours(batch, targets, want=want)
        sum(output.losses.values()).backward()
        return output, {name: p.grad for name, p in ours.named_parameters()}

    alone, gradients = learn({LOSSES})
    output, gradients_beside = learn({LOSSES, REGIONS})

    assert [len(boxes) for boxes in output.regions.proposals] == [10, 10]
    assert output.losses == alone.losses
    torch.testing.assert_close(gradients_beside, gradients, rtol=0, atol=0)


def test_undecided_regions_are_judged_as_the_others(undecided_about):
    batch, targets = undecided_about(slice(0, 40))
    ours = make_small(region_samples=8).eval()

    regions = ours(batch, targets, want={LOSSES, REGIONS}).regions

    judged = ours(batch, want={REGIONS}, given={REGIONS: regions}).regions
    assert [len(boxes) for boxes in regions.proposals] == [10, 10]
    for name in ("proposals", "features", "logits", "box_codes"):
        torch.testing.assert_close(getattr(regions, name), getattr(judged, name))


def test_an_image_has_the_same_undecided_regions_in_a_batch_and_alone(undecided_about):
    batch, targets = undecided_about(slice(0, 40))
    ours = make_small(region_samples=8).eval()

    def regions_of(start, stop):
        with with_step_seed(3):
            output = ours(batch.part(start, stop), targets[start:stop], want={LOSSES, REGIONS})
        return output.regions

    whole, parts = regions_of(0, 2), [regions_of(0, 1), regions_of(1, 2)]

    assert [len(boxes) for boxes in whole.proposals] == [10, 10]
    for name in ("proposals", "logits"):
        alone = tuple(getattr(part, name)[0] for part in parts)
        torch.testing.assert_close(getattr(whole, name), alone, rtol=1e-4, atol=1e-4)

"""On which level a detector says that it looks for an object. Oracle: its own matching."""

import math

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.losses.object_sizes import LevelSizes, nearest_places
from distildet.structures import FEATURES_NECK, Targets

CLASSES = ClassList(("a",))
SIZE = 1024


def box(area_side, aspect=1.0, off_center=0.0):
    """A box [1 4] of the area of a square, `aspect` times as wide as high."""
    center = SIZE / 2 + off_center
    half = torch.tensor([aspect**0.5, aspect**-0.5]) * area_side / 2
    return torch.cat([center - half, center + half])[None]


def target_of(boxes):
    return Targets(
        boxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        weights=torch.ones(len(boxes)),
        ignore=torch.zeros(0, 4),
        known_classes=torch.ones(1, dtype=torch.bool),
        origin="human",
    )


def neck_levels(detector):
    return list(detector.spec.levels_of(FEATURES_NECK).values())


def most_priors(detector, boxes):
    """Of each box the place of the level on which most priors are matched to it."""
    features = {
        level.name: torch.zeros(1, 8, SIZE // level.stride, SIZE // level.stride)
        for level in neck_levels(detector)
    }
    priors = detector.predict_dense(features, (SIZE, SIZE))[1].priors
    found = []
    for one in boxes:
        matched = detector.match(priors, [target_of(one)])[0] >= 0
        counts = [int(part.sum()) for part in matched.split([len(level) for level in priors])]
        found.append(counts.index(max(counts)))
    return found


def stated(detector, boxes):
    sides = tuple(level.object_side for level in neck_levels(detector))
    return nearest_places(torch.cat(boxes), LevelSizes(detector.spec.object_size, sides)).tolist()


@pytest.mark.parametrize("off_center", [0.0, 5.0])
@pytest.mark.parametrize(
    ("family", "options", "factors", "aspects"),
    [
        # Of two levels that match about alike, the finer has four times as many anchors.
        ("retinanet", {}, (0.9, 1.0, 1.3), (0.5, 1.0, 2.0)),
        ("retinanet", {"anchor_scale": 1.5, "anchor_octaves": 1}, (0.9, 1.0, 1.3), (0.5, 1.0)),
        ("retinanet", {"anchor_scale": 8.0, "anchor_ratios": (1.0,)}, (0.9, 1.0, 1.3), (1.0,)),
        ("fcos", {}, (0.8, 1.0, 1.3), (0.25, 0.5, 1.0, 2.0, 4.0)),
    ],
)
def test_most_priors_of_an_object_are_on_the_level_that_is_nearest_in_size(
    family, options, factors, aspects, off_center
):
    detector = build_detector(family, classes=CLASSES, neck_channels=8, head_depth=0, **options)
    sides = [level.object_side for level in neck_levels(detector)[:3]]
    long = detector.spec.object_size == "longer side"
    boxes = [
        box(factor * side / (max(aspect, 1 / aspect) ** 0.5 if long else 1), aspect, off_center)
        for side in sides
        for factor in factors
        for aspect in aspects
    ]

    found = stated(detector, boxes)

    assert found == most_priors(detector, boxes)
    assert sorted(set(found)) == [0, 1, 2]


@pytest.mark.parametrize("canonical", [224, 96])
@pytest.mark.parametrize("factor", [0.75, 1.0, 1.35, 9.0])
def test_an_object_is_pooled_from_the_level_that_is_nearest_in_size(canonical, factor):
    detector = build_detector(
        "faster_rcnn", classes=CLASSES, neck_channels=8, region_canonical_size=canonical
    )
    levels = neck_levels(detector)
    boxes = [box(factor * level.object_side) for level in levels[:-1]]
    sides = (*(level.object_side for level in levels[:-1]), math.inf)

    found = nearest_places(torch.cat(boxes), LevelSizes(detector.spec.object_size, sides))

    # Nothing is pooled from the further level, however large it is.
    assert levels[-1].object_side is None
    assert found.tolist() == detector.region_head.pool.map_levels([torch.cat(boxes)]).tolist()


def test_towers_look_for_what_the_levels_of_the_neck_do_and_backbones_for_anything():
    detector = build_detector("retinanet", classes=CLASSES, neck_channels=8, anchor_octaves=1)

    by_name = {level.name: level.object_side for level in detector.spec.levels}

    assert by_name["P3"] == by_name["cls.P3"] == by_name["box.P3"] == 4 * 8
    assert by_name["C3"] is None

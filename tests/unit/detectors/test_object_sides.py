"""Oracles: what each family's own matching makes of squares of the stated sides."""

import pytest
import torch

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector
from distildet.structures import FEATURES_NECK, Targets

CLASSES = ClassList(("a",))
SIZE = 1024


def square(side):
    corner = SIZE / 2 - side / 2
    return torch.tensor([[corner, corner, corner + side, corner + side]])


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


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("retinanet", {}),
        ("retinanet", {"anchor_scale": 1.5, "anchor_octaves": 1}),
        ("retinanet", {"anchor_scale": 8.0, "anchor_ratios": (1.0,)}),
        ("fcos", {}),
    ],
)
@pytest.mark.parametrize("factor", [0.9, 1.0, 1.1])
def test_most_priors_of_an_object_of_a_levels_side_are_on_that_level(family, options, factor):
    detector = build_detector(family, classes=CLASSES, neck_channels=8, head_depth=0, **options)
    levels = neck_levels(detector)[:-1]
    features = {
        level.name: torch.zeros(1, 8, SIZE // level.stride, SIZE // level.stride)
        for level in neck_levels(detector)
    }
    priors = detector.predict_dense(features, (SIZE, SIZE))[1].priors

    found = []
    for level in levels:
        matched = detector.match(priors, [target_of(square(factor * level.object_side))])[0] >= 0
        counts = [int(part.sum()) for part in matched.split([len(one) for one in priors])]
        found.append(levels[counts.index(max(counts))].name)

    assert found == [level.name for level in levels]


@pytest.mark.parametrize("canonical", [224, 96])
@pytest.mark.parametrize("factor", [0.75, 1.0, 1.35])
def test_an_object_of_a_levels_side_is_pooled_from_that_level(canonical, factor):
    detector = build_detector(
        "faster_rcnn", classes=CLASSES, neck_channels=8, region_canonical_size=canonical
    )
    levels = neck_levels(detector)[:-1]  # nothing is pooled from the further level

    boxes = torch.cat([square(factor * level.object_side) for level in levels])

    assert detector.region_head.pool.map_levels([boxes]).tolist() == list(range(len(levels)))


def test_towers_look_for_what_the_levels_of_the_neck_do_and_backbones_for_anything():
    detector = build_detector("retinanet", classes=CLASSES, neck_channels=8, anchor_octaves=1)

    by_name = {level.name: level.object_side for level in detector.spec.levels}

    assert by_name["P3"] == by_name["cls.P3"] == by_name["box.P3"] == 4 * 8
    assert by_name["C3"] is None

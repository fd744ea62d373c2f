"""Gradients, numbers and faults of the loss. Oracles: values by hand."""

import math
from dataclasses import replace

import pytest
import torch

from distildet.errors import ConfigError, MissingPartError
from distildet.losses.hands_on_guidance import HandsOnGuidance
from distildet.structures import DetectorOutput

EVERY = ("backbone", "neck", "head")


def test_gradients_reach_every_map_of_the_student_and_projector_and_none_of_the_teacher(
    pair, outputs, batch, targets, parts_of
):
    for output in outputs:
        for feature in output.features.values():
            feature.requires_grad_()
    loss = HandsOnGuidance(*pair, groups=EVERY, release=0.1)

    found = loss(*outputs, batch, targets)
    sum(parts_of(loss, found).values()).backward()

    assert not any(found[name].requires_grad for name in loss.figures)
    assert all(one.grad.any() for one in outputs[0].features.values())
    assert all(one.grad.any() for one in loss.parameters())
    assert all(one.grad is None for one in outputs[1].features.values())
    assert not any(one.requires_grad for one in loss.buffers())


@pytest.mark.parametrize("options", [{}, {"background": 0.0}, {"micro": False}])
def test_without_any_box_it_is_finite_with_a_gradient(
    pair, outputs, batch, target_of, options, total, sizes
):
    loss = HandsOnGuidance(*pair, **options)

    value = total(loss, *outputs, batch, [target_of()] * len(sizes))
    value.backward()

    assert 0 < value.item() < math.inf
    assert all(one.grad.isfinite().all() for one in loss.parameters())


def test_an_image_that_is_to_be_ignored_as_a_whole_adds_nothing(
    pair, outputs, batch, target_of, sizes, canvas
):
    loss = HandsOnGuidance(*pair, groups=("neck",))
    everything = target_of(ignore=[(0, 0, canvas[1], canvas[0])])

    found = loss(*outputs, batch, [everything] * len(sizes))

    assert found["neck"] == 0
    assert all(one.isfinite() for one in found.values())


def test_labels_and_weights_of_boxes_do_not_matter(pair, outputs, batch, targets, total):
    loss = HandsOnGuidance(*pair)
    others = [
        replace(one, labels=one.labels + 1, weights=one.weights * 0, known_classes=torch.zeros(2))
        for one in targets
    ]

    value = total(loss, *outputs, batch, targets)
    assert total(loss, *outputs, batch, others).equal(value)


def test_maps_of_one_cell_are_compared(spec_of, batch_of, target_of):
    spec, batch = spec_of({"P7": 2}), batch_of(((64, 64), (64, 32)), (64, 64))
    maps = torch.tensor([[3.0, 1.0], [1.0, 0.0]])[:, :, None, None]
    outputs = [DetectorOutput(features={"P7": one}) for one in (maps + 2, maps)]
    loss = HandsOnGuidance(spec, spec, direction=0.0)
    targets = [target_of((1, 1, 30, 30)), target_of()]

    loss.prepare(*[[loss.observe(one, batch, targets)] for one in outputs])

    # Deviations of 1 and 0.5: differences of 2 and 4, by huber 1.5 and 3.5.
    assert loss(*outputs, batch, targets)["neck"].item() == pytest.approx(2.5)


@pytest.mark.parametrize("options", [{}, {"macro": False, "release": 0.1}])
def test_half_precision_gives_float32_of_nearly_the_same_value(
    pair, outputs, batch, targets, options, prepare
):
    loss = HandsOnGuidance(*pair, groups=EVERY, **options)
    half = [
        DetectorOutput(features={name: one.bfloat16() for name, one in output.features.items()})
        for output in outputs
    ]
    prepare(loss, half, batch, targets)

    found, expected = loss(*half, batch, targets), loss(*outputs, batch, targets)

    assert {one.dtype for one in found.values()} == {torch.float32}
    for name in ("backbone", "neck", "head"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.02)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": "mse"}, ConfigError, r"^measure: found 'mse'\. Accepted: hands-on, squared"),
        ({"release": 1.5}, ConfigError, r"^release: found 1\.5\. Accepted: a number from 0 to be"),
        (
            {"correspondence": {"P3": "P3"}, "backbone_weight": 7.0},
            ConfigError,
            r"^backbone_weight: found 7\.0, without effect: backbone is not compared, but neck\.",
        ),
        (
            {"correspondence": {"P9": "P3"}},
            MissingPartError,
            r"^correspondence: found 'P9', which is no level of the student that is compared\.",
        ),
        (
            {"correspondence": {"P3": "C3"}},
            MissingPartError,
            r"^correspondence: P3: found 'C3'\. Accepted: P3, P4, P5\.$",
        ),
        (
            {"correspondence": {"C3": "C3"}, "groups": ("neck",)},
            MissingPartError,
            r"^correspondence: found 'C3', which is no level .* Accepted: P3, P4\.$",
        ),
    ],
)
def test_what_cannot_be_is_refused(pair, options, error, message):
    with pytest.raises(error, match=message):
        HandsOnGuidance(*pair, **options)


def test_a_group_that_is_asked_for_and_missing_is_refused(spec_of, pair):
    student, teacher = pair[0], spec_of({"C3": 3, "P3": 4}, family="rcnn")
    message = (
        r"^groups: head is not compared: the teacher 'rcnn' without features\.head\. "
        r"Both have: backbone, neck\. Take the others out"
    )

    with pytest.raises(MissingPartError, match=message):
        HandsOnGuidance(student, teacher, groups=("neck", "head"))


def test_a_pair_without_any_group_is_refused(spec_of):
    message = (
        r"^groups: backbone is not compared: the student 'own' without features\.backbone; "
        r"neck is "
    )

    with pytest.raises(MissingPartError, match=message):
        HandsOnGuidance(spec_of({"P3": 3}, family="own"), spec_of({"C3": 3}, family="guide"))

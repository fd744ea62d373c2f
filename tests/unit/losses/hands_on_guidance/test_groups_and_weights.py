"""What is compared and what it counts. Oracles: values by hand."""

import math

import pytest
import torch

from distildet.losses.hands_on_guidance import HandsOnGuidance
from distildet.losses.hands_on_guidance.macro_weights import START, STOP
from distildet.structures import DetectorOutput

EVERY = ("backbone", "neck", "head")


def test_groups_that_the_pair_does_not_have_are_left_out_and_remarked(spec_of, pair):
    teacher = spec_of({"C3": 3}, family="bare")

    loss = HandsOnGuidance(pair[0], teacher)

    assert loss.needs.student == loss.needs.teacher == {"features.backbone"}
    assert loss.remarks == ("neck is not compared: the teacher 'bare' without features.neck",)


def test_towers_of_heads_are_compared_if_they_are_asked_for_or_paired_by_hand(pair):
    assert HandsOnGuidance(*pair).needs.student == {"features.backbone", "features.neck"}
    for options in {"groups": ("head",)}, {"correspondence": {"cls.P3": "cls.P4"}}:
        assert HandsOnGuidance(*pair, **options).needs.student == {"features.head"}


def test_what_is_missing_is_still_remarked_once_it_is_prepared(
    spec_of, random_output, batch, prepare, sizes, canvas
):
    spec = spec_of({"P3": 4})
    loss = HandsOnGuidance(spec, spec)
    output = random_output(spec, len(sizes), canvas, 0)

    for _ in range(2):
        prepare(loss, (output, output), batch, [])

    assert [line.split(":")[0] for line in loss.remarks] == [
        "backbone is not compared",
        "P3 learns from P3 of the teacher, affinity 1.00",
    ]


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"groups": ("neck",)}, {"neck"}),
        ({"groups": ("head", "backbone")}, {"head", "backbone"}),
        ({"backbone_weight": 0.0}, {"neck"}),
        ({"groups": ("backbone", "head"), "head_weight": 0.0}, {"backbone"}),
    ],
)
def test_groups_that_are_not_asked_for_or_of_no_weight_are_not_read(
    pair, outputs, batch, targets, options, parts, parts_of
):
    loss = HandsOnGuidance(*pair, **options)
    wanted = {f"features.{part}" for part in parts}

    assert loss.needs.student == loss.needs.teacher == loss.preparation.parts == wanted
    assert loss.remarks == ()
    assert parts_of(loss, loss(*outputs, batch, targets)).keys() == parts


def test_parts_are_weighed_by_their_groups(pair, outputs, batch, targets):
    weights = {"backbone_weight": 2.0, "neck_weight": 0.25, "head_weight": 3.0}
    torch.manual_seed(0)
    loss = HandsOnGuidance(*pair, groups=EVERY, **weights)

    found = loss(*outputs, batch, targets)

    # Two levels of the backbone and of the neck, four of the head.
    whole = 2 * 2 + 2 * 0.25 + 4 * 3
    for group, weight, names in (
        ("backbone", 2.0, ("C3", "C4")),
        ("neck", 0.25, ("P3", "P4")),
        ("head", 3.0, ("cls.P3", "cls.P4", "box.P3", "box.P4")),
    ):
        value = sum(found[f"{name}.difference"].item() for name in names)
        assert found[group].item() == pytest.approx(weight * value / whole, rel=1e-5)


def learn(loss, differences, progress):
    names = [one.level.name for one in loss.levels]
    loss.learn(
        {f"{name}.difference": one for name, one in zip(names, differences, strict=True)},
        progress=progress,
    )


@pytest.mark.parametrize("macro", [True, False])
def test_levels_that_lag_count_more_unless_macro_is_off(pair, outputs, batch, targets, macro):
    loss = HandsOnGuidance(*pair, groups=("neck",), macro=macro)
    learn(loss, [5.0, 1.0], 0.0)
    learn(loss, [1.0, 1.0], START)
    learn(loss, [0.5, 1.0], STOP)

    found = loss(*outputs, batch, targets)

    second = 2 / (1 + math.exp(-0.5)) if macro else 1.0
    weights = found["P3.weight"].item(), found["P4.weight"].item()
    assert weights == pytest.approx((2 - second, second))
    values = found["P3.difference"].item(), found["P4.difference"].item()
    expected = (weights[0] * values[0] + weights[1] * values[1]) / 2
    assert found["neck"].item() == pytest.approx(expected, rel=1e-5)


def test_weights_of_a_step_do_not_change_when_the_next_one_is_learned(
    pair, outputs, batch, targets
):
    loss = HandsOnGuidance(*pair, groups=("neck",))
    learn(loss, [5.0, 1.0], 0.0)
    learn(loss, [1.0, 1.0], START)

    found = loss(*outputs, batch, targets)
    learn(loss, [0.5, 1.0], STOP)

    assert found["P3.weight"] == 1
    found["neck"].backward()


def test_the_margin_is_what_a_share_of_the_cells_lay_below_of_late(spec_of, batch_of, target_of):
    # One channel, one image of 4 x 4 cells that differ by 1 to 16: less a half.
    spec, batch = spec_of({"P3": 1}), batch_of(((32, 32),), (32, 32))
    own = DetectorOutput(features={"P3": torch.arange(1.0, 17).view(1, 1, 4, 4)})
    guide = DetectorOutput(features={"P3": torch.zeros(1, 1, 4, 4)})
    loss = HandsOnGuidance(spec, spec, direction=0.0, micro=False, release=0.25)
    given = own, guide, batch, [target_of()]

    first = loss(*given)
    loss.learn({name: one.item() for name, one in first.items()}, progress=0.0)
    second = loss(*given)

    # Of 16 cells the place is 0.25 * 15, rounded down: the fourth, of 3.5.
    assert first["P3.released"].item() == 3.5
    assert first["neck"].item() == pytest.approx(8)
    assert second["neck"].item() == pytest.approx(sum(range(13)) / 16)
    assert second["P3.released"].item() == 3.5


def test_without_a_release_there_is_neither_margin_nor_figure(pair, outputs, batch, targets):
    loss = HandsOnGuidance(*pair)

    assert loss.margins is None
    names = loss(*outputs, batch, targets).keys() | loss.figures
    assert [name for name in names if name.endswith("released")] == []

"""Which level learns from which. Oracles: towers of known pairs."""

import pytest
import torch

from distildet.losses.hands_on_guidance import HandsOnGuidance
from distildet.losses.hands_on_guidance.macro_weights import START, STOP
from distildet.structures import DetectorOutput

EVERY = ("backbone", "neck", "head")


def test_a_homogeneous_pair_is_paired_with_itself(pair, outputs, batch, targets, prepare, pairs_of):
    student = pair[0]
    loss = HandsOnGuidance(student, student)

    found = prepare(loss, (outputs[0], outputs[0]), batch, targets)

    assert found["correspondence"] == {name: name for name in pairs_of(loss)}
    for name, row in found["affinity"].items():
        assert row[name] == pytest.approx(1, abs=1e-4)
    assert set(found["left_out"].values()) == {0}


@pytest.mark.parametrize("extra", ["C3", "C4"])
def test_a_level_that_the_teacher_has_besides_is_skipped(spec_of, batch_of, extra, pairs_of):
    # Each level is the last one, mixed with something else; strides, which would tell, count 0.
    names, own_names = ("C2", "C3", "C4", "C5"), ("C2", "C3", "C4")
    steps = torch.randn(4, 40, 6, 4, 4, generator=torch.Generator().manual_seed(1)).cumsum(0)
    guide = dict(zip(names, steps, strict=True))
    kept = [name for name in names if name != extra]
    own = {name: 3 * guide[one] for name, one in zip(own_names, kept, strict=True)}
    specs = [spec_of(dict.fromkeys(one, 6)) for one in (own_names, names)]
    loss = HandsOnGuidance(*specs, groups=("backbone",), stride_penalty=0.0)
    batch = batch_of(((128, 128),) * 40, (128, 128))
    seen = [[loss.observe(DetectorOutput(features=one), batch, [])] for one in (own, guide)]

    found = loss.prepare(*seen)

    assert found["correspondence"] == dict(zip(own_names, kept, strict=True))
    assert pairs_of(loss) == found["correspondence"]
    assert loss.remarks == tuple(
        f"{own} learns from {guide} of the teacher, affinity 1.00"
        for own, guide in found["correspondence"].items()
    )


def test_in_order_the_first_learns_from_the_first_whatever_is_seen(
    pair, outputs, batch, targets, prepare
):
    loss = HandsOnGuidance(*pair, correspondence="order", groups=EVERY)

    found = prepare(loss, outputs, batch, targets)

    assert found["correspondence"] == {
        "C3": "C2",
        "C4": "C3",
        "P3": "P3",
        "P4": "P4",
        "box.P3": "box.P3",
        "box.P4": "box.P4",
        "cls.P3": "cls.P3",
        "cls.P4": "cls.P4",
    }


def test_by_hand_levels_learn_from_those_named_alone(
    pair, outputs, batch, targets, prepare, parts_of
):
    loss = HandsOnGuidance(*pair, correspondence={"P4": "P3", "C3": "C4"})

    found = prepare(loss, outputs, batch, targets)

    assert found["correspondence"] == {"C3": "C4", "P4": "P3"}
    assert loss.needs.student == loss.needs.teacher == {"features.backbone", "features.neck"}
    assert loss.preparation.parts == loss.needs.student
    given = *outputs, batch, targets
    assert parts_of(loss, loss(*given)).keys() == {"backbone", "neck"}


@pytest.mark.parametrize(
    ("correspondence", "every"), [("affinity", 1.0), ("order", None), ({"P3": "P4"}, None)]
)
def test_it_looks_twice_where_pairs_are_found_and_else_once(pair, correspondence, every):
    asked = HandsOnGuidance(*pair, correspondence=correspondence, images=7).preparation

    assert (asked.every, asked.images, asked.objects) == (every, 7, 0)
    assert every is None or asked.times == 2


def test_channels_that_do_not_vary_are_told(pair, outputs, batch, targets, prepare):
    found = prepare(HandsOnGuidance(*pair, groups=EVERY), outputs, batch, targets)

    assert found["left_out"] == dict.fromkeys((level.name for level in pair[1].levels), 1)


def test_a_teachers_image_that_is_not_finite_leaves_statistics_and_pairs_of_the_others(
    pair, outputs, batch, targets, prepare
):
    loss, expected = HandsOnGuidance(*pair), HandsOnGuidance(*pair)
    spoilt = {name: one.clone() for name, one in outputs[1].features.items()}
    for feature in spoilt.values():
        feature[2, 0, 0, 0] = float("inf")

    found = prepare(loss, (outputs[0], DetectorOutput(features=spoilt)), batch, targets)

    others = [
        DetectorOutput(features={name: one[:2] for name, one in output.features.items()})
        for output in outputs
    ]
    seen = [[expected.observe(one, batch.part(0, 2), targets[:2])] for one in others]
    assert found == expected.prepare(*seen)
    for one, other in zip(loss.scales.buffers(), expected.scales.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_another_with_the_state_of_a_prepared_one_has_its_pairs_and_its_value(
    spec_of, random_output, batch, targets, prepare, total, pairs_of, sizes, canvas
):
    # P3 and P4 of the student are as P4 of the teacher, and not paired in order.
    own, guide = spec_of({"P3": 4, "P4": 4}), spec_of({"P3": 4, "P4": 4, "P5": 4})
    maps = random_output(guide, len(sizes), canvas, 0)
    outputs = DetectorOutput(features=dict.fromkeys(("P3", "P4"), maps.features["P4"])), maps
    given = *outputs, batch, targets
    loss, other = (HandsOnGuidance(own, guide, stride_penalty=0.0, release=0.1) for _ in range(2))
    prepare(loss, outputs, batch, targets)
    # What it has paired so far is remembered.
    assert pairs_of(other) == {"P3": "P3", "P4": "P4"}
    total(other, *given)

    other.load_state_dict(loss.state_dict())

    assert pairs_of(loss) == pairs_of(other) == {"P3": "P4", "P4": "P4"}
    assert total(other, *given).item() == total(loss, *given).item() > 0


def test_looking_again_pairs_anew(spec_of, random_output, batch, prepare, pairs_of, sizes, canvas):
    own, guide = spec_of({"P3": 4}), spec_of({"P3": 4, "P4": 4})
    maps = random_output(guide, len(sizes), canvas, 0)
    loss = HandsOnGuidance(own, guide, stride_penalty=0.0)

    found = [
        prepare(loss, (DetectorOutput(features={"P3": maps.features[name]}), maps), batch, [])
        for name in ("P3", "P4")
    ]

    assert [one["correspondence"] for one in found] == [{"P3": "P3"}, {"P3": "P4"}]
    assert pairs_of(loss) == {"P3": "P4"}


@pytest.mark.parametrize("second", ["P3", "P4"])
def test_what_was_learned_is_forgotten_where_levels_are_paired_anew(
    spec_of, random_output, batch, second, prepare, sizes, canvas
):
    own, guide = spec_of({"C3": 4, "P3": 4}), spec_of({"C3": 4, "P3": 4, "P4": 4})
    maps = random_output(guide, len(sizes), canvas, 0)
    loss = HandsOnGuidance(own, guide, stride_penalty=0.0, release=0.5)

    def look(name, change=0.0):
        features = {"C3": maps.features["C3"].clone(), "P3": maps.features[name]}
        features["C3"][:, 0] += change * maps.features["P3"][:, 0]
        prepare(loss, (DetectorOutput(features=features), maps), batch, [])

    look("P3")
    for progress in (0.0, START, STOP, 0.5):
        values = {"C3.difference": progress + 1, "P3.difference": 1.0}
        margins = {"C3.released": 0.5, "P3.released": 0.5 + progress}
        loss.learn(values | margins, progress=progress)
    learned = loss.macro.weights.tolist(), loss.margins.value.tolist()
    told = loss.remarks

    look(second, change=1.0)

    again = loss.macro.weights.tolist(), loss.margins.value.tolist()
    assert learned[0] != [1, 1]
    assert again == (learned if second == "P3" else ([1, 1], [0, 0]))
    # Told in the same words where the pair stays, so that the run does not tell it again.
    assert [line in told for line in loss.remarks[-2:]] == [True, second == "P3"]

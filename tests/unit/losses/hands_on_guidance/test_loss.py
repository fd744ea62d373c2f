"""Oracles: a loop over cells in float64, towers of known pairs, and values by hand."""

import math
from dataclasses import replace

import pytest
import torch

from distildet.errors import ConfigError, MissingPartError
from distildet.losses.hands_on_guidance import HandsOnGuidance
from distildet.losses.hands_on_guidance.macro_weights import START, STOP
from distildet.structures import DetectorOutput

CANVAS = (64, 104)  # which is no multiple of 16 and 32: cells of P4 and P5 do not match
SIZES = ((64, 104), (40, 60), (64, 72))
STUDENT = {"C3": 3, "C4": 5, "P3": 4, "P4": 4, "box.P3": 3, "box.P4": 3, "cls.P3": 3, "cls.P4": 3}
TEACHER = {
    **dict.fromkeys(("P3", "P4", "P5"), 6),
    **dict.fromkeys(("box.P3", "box.P4", "box.P5", "cls.P3", "cls.P4", "cls.P5"), 5),
    "C2": 4,
    "C3": 3,
    "C4": 6,
}
BY_HAND = {
    "C3": "C2",
    "C4": "C4",
    "P3": "P4",
    "P4": "P5",
    "box.P3": "box.P3",
    "box.P4": "box.P4",
    "cls.P3": "cls.P3",
    "cls.P4": "cls.P5",
}
GROUP_WEIGHTS = {"C": 0.5, "P": 1.0, "c": 1.0, "b": 1.0}
"""By the first letter of a level's name, as the defaults say."""


@pytest.fixture
def batch(batch_of):
    return batch_of(SIZES, CANVAS)


@pytest.fixture
def targets(target_of):
    """Boxes that overlap, on both levels by size; beside a region to ignore; and no box."""
    return [
        target_of((1, 1, 30, 40), (20, 10, 26, 17), (60, 3, 64, 5), (50, 20, 95, 60)),
        target_of((4, 4, 7, 9), (8, 8, 30, 34), ignore=[(0, 0, 40, 16)]),
        target_of(),
    ]


@pytest.fixture
def pair(spec_of):
    return spec_of(STUDENT, family="own"), spec_of(TEACHER, family="guide")


@pytest.fixture
def outputs(pair, random_output):
    """Maps of both; those of the teacher have channels of other means and deviations."""
    own, guide = (random_output(spec, len(SIZES), CANVAS, seed) for seed, spec in enumerate(pair))
    features = {}
    for name, feature in guide.features.items():
        channels = torch.arange(feature.shape[1])[:, None, None]
        features[name] = feature * (0.2 + channels) + 3 * channels
        features[name][:, 1] = 7.0  # which never varies
    return own, DetectorOutput(features=features)


def prepare(loss, outputs, batch, targets):
    """Let a loss look at the images in two batches."""
    seen = []
    for output in outputs:
        parts = []
        for start, stop in ((0, 2), (2, len(batch))):
            features = {name: one[start:stop] for name, one in output.features.items()}
            given = DetectorOutput(features=features), batch.part(start, stop)
            parts.append(loss.observe(*given, targets[start:stop]))
        seen.append(parts)
    return loss.prepare(*seen)


def parts_of(loss, values):
    return {name: one for name, one in values.items() if name not in loss.figures}


def total(loss, *given):
    return sum(parts_of(loss, loss(*given)).values())


# The loop


def shown_cells(size, shape):
    return [
        (row, column)
        for row in range(shape[0])
        for column in range(shape[1])
        if row * CANVAS[0] / shape[0] < size[0] and column * CANVAS[1] / shape[1] < size[1]
    ]


def overlaps(box, place, shape):
    height, width = CANVAS[0] / shape[0], CANVAS[1] / shape[1]
    row, column = place
    return (
        box[0] < (column + 1) * width
        and box[2] > column * width
        and box[1] < (row + 1) * height
        and box[3] > row * height
    )


def averaged(feature, shape):
    """A map [c h w] on a coarser grid, cell by cell."""
    found = torch.zeros(len(feature), *shape, dtype=torch.float64)
    steps = feature.shape[1] / shape[0], feature.shape[2] / shape[1]
    for row in range(shape[0]):
        for column in range(shape[1]):
            top, left = math.floor(row * steps[0]), math.floor(column * steps[1])
            bottom, right = math.ceil((row + 1) * steps[0]), math.ceil((column + 1) * steps[1])
            found[:, row, column] = feature[:, top:bottom, left:right].flatten(1).mean(1)
    return found


def teachers_scale(feature):
    """Mean and deviation of each channel over the cells that show image; which of them vary."""
    cells = torch.stack(
        [
            feature[image, :, *place].double()
            for image, size in enumerate(SIZES)
            for place in shown_cells(size, feature.shape[2:])
        ]
    )
    mean = cells.mean(0)
    variance = (cells - mean).square().mean(0)
    varies = variance.sqrt() > 0.01 * variance.mean().sqrt()
    return mean[varies], variance[varies].sqrt(), varies


def huber(difference):
    size = abs(difference)
    return size**2 / 2 if size <= 1 else size - 0.5


def differences(own, guide, deviation, options):
    """e of one cell before the margin, from its standardised channels."""
    apart = (own - guide).tolist()
    if options.measure == "squared":
        squares = [(one * unit) ** 2 for one, unit in zip(apart, deviation.tolist(), strict=True)]
        return sum(squares) / float(deviation.square().sum())
    magnitude = sum(map(huber, apart)) / len(apart)
    further = 1e-4 * len(apart)
    lengths = math.sqrt((float(own @ own) + further) * (float(guide @ guide) + further))
    return magnitude + options.value("direction") * (1 - (float(own @ guide) + further) / lengths)


def region_of(places, boxes, ignore, shape, background):
    """What cells count for the boxes over them, and which of them are in a box."""
    least = CANVAS[0] * CANVAS[1] / (shape[0] * shape[1])
    inside = {}
    for place in places:
        areas = [
            max((box[2] - box[0]) * (box[3] - box[1]), least)
            for box in boxes
            if overlaps(box, place, shape)
        ]
        if areas:
            inside[place] = 1 / min(areas)
    rest = [
        place
        for place in places
        if place not in inside and not any(overlaps(one, place, shape) for one in ignore)
    ]
    factor = background if inside else 1.0
    region = {place: value / sum(inside.values()) for place, value in inside.items()}
    return region | {place: factor / len(rest) for place in rest if factor > 0}, set(inside)


def level_of_box(box):
    """Objects of 16 pixels are looked for on P3, of 32 on P4: 22.6 lies between."""
    return int(math.sqrt((box[2] - box[0]) * (box[3] - box[1])) > math.sqrt(16 * 32))


def naive_level(loss, number, outputs, targets):
    """Value, weight of cells in boxes and evenness of a level: means over images."""
    options, one = loss.options, loss.levels[number]
    name, projector = one.level.name, loss.guided[number].projector
    own, guide = outputs[0].features[name], outputs[1].features[BY_HAND[name]]
    mean, deviation, varies = teachers_scale(guide)
    margin = 0.0 if loss.margins is None else float(loss.margins.value[number])
    shape = tuple(min(own.shape[axis], guide.shape[axis]) for axis in (2, 3))
    matrix = projector.weight.detach()[: guide.shape[1], :, 0, 0].double()[varies]
    bias = projector.bias.detach()[: guide.shape[1]].double()[varies]
    values, shares, even = [], [], []
    for image, size in enumerate(SIZES):
        student = averaged(own[image].double(), shape)
        teacher = averaged(guide[image].double()[varies], shape)
        places = shown_cells(size, shape)
        error, sizes = {}, {}
        for place in places:
            v = (matrix @ student[:, *place] + bias - mean) / deviation
            t = (teacher[:, *place] - mean) / deviation
            error[place] = max(0.0, differences(v, t, deviation, options) - margin)
            sizes[place] = float(t.abs().mean())
        boxes = [
            box
            for box in targets[image].boxes.tolist()
            if name.startswith("C") or level_of_box(box) == one.place
        ]
        region, inside = region_of(
            places, boxes, targets[image].ignore.tolist(), shape, options.value("background")
        )
        if options.micro:
            average = sum(error[place] for place in region) / len(region)
            weight = {
                place: value
                * math.exp(options.value("attention") * sizes[place])
                * (1 + options.value("hardness") * min(error[place] / average, 4))
                for place, value in region.items()
            }
        else:
            weight = dict.fromkeys(places, 1.0)
        whole = sum(weight.values())
        values.append(sum(weight[place] * error[place] for place in weight) / whole)
        shares.append(sum(weight[place] for place in weight if place in inside) / whole)
        even.append(whole**2 / sum(one**2 for one in weight.values()) / len(places))
    return [sum(one) / len(SIZES) for one in (values, shares, even)]


ALL = ("backbone", "neck", "head")
LEARNED = (0.5, 1.0, 2.0, 0.7, 0.9, 1.1, 1.0, 1.3)
"""What the levels' differences are of those at first, where macro weights have learned."""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"release": 0.2},
        {"measure": "squared", "release": 0.1},
        {"micro": False},
        {"macro": False, "background": 2.0},
        {"direction": 0.0, "attention": 0.0},
        {"hardness": 0.0, "background": 0.0},
        {"attention": 0.3, "hardness": 3.0, "macro_temperature": 0.2},
    ],
)
def test_the_whole_loss_is_that_of_a_loop_over_cells(pair, outputs, batch, targets, options):
    torch.manual_seed(0)
    loss = HandsOnGuidance(*pair, correspondence=BY_HAND, **options)
    with torch.no_grad():
        for guided in loss.guided:
            guided.projector.weight += 0.3 * torch.randn_like(guided.projector.weight)
    prepare(loss, outputs, batch, targets)
    names = [one.level.name for one in loss.levels]
    for factors, progress in ([5.0] * 8, 0.0), ([1.0] * 8, START), (LEARNED, STOP):
        figures = {f"{name}.difference": one for name, one in zip(names, factors, strict=True)}
        margins = {f"{name}.released": 0.8 * one for name, one in zip(names, LEARNED, strict=True)}
        loss.learn(figures | margins, progress=progress)

    found = loss(*outputs, batch, targets)

    assert names == list(BY_HAND)
    weights = [1.0] * 8 if loss.macro is None else loss.macro.weights.tolist()
    expected = {"backbone": 0.0, "neck": 0.0, "head": 0.0}
    for number, name in enumerate(names):
        value, inside, even = naive_level(loss, number, outputs, targets)
        assert found[f"{name}.difference"].item() == pytest.approx(value, rel=1e-4)
        assert found[f"{name}.foreground"].item() == pytest.approx(inside, rel=1e-4)
        assert found[f"{name}.evenness"].item() == pytest.approx(even, rel=1e-4)
        assert found[f"{name}.weight"].item() == pytest.approx(weights[number])
        group = {"C": "backbone", "P": "neck"}.get(name[0], "head")
        expected[group] += GROUP_WEIGHTS[name[0]] * weights[number] * value / (2 * 0.5 + 2 + 4)
    assert {name: one.item() for name, one in parts_of(loss, found).items()} == pytest.approx(
        expected, rel=1e-4
    )
    assert found.keys() - loss.figures == expected.keys()
    assert found.keys() >= loss.figures


# Equality


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"correspondence": "order"},
        {"measure": "squared", "micro": False},
        {"release": 0.3},
        {"correspondence": {"P3": "P3", "cls.P4": "cls.P4"}},
    ],
)
def test_it_is_0_at_equality_also_where_nothing_varies(pair, outputs, batch, targets, options):
    student, output = pair[0], outputs[0]
    features = {**output.features, "P3": torch.full_like(output.features["P3"], 0.1)}
    same = DetectorOutput(features=features)
    loss = HandsOnGuidance(student, student, **options)

    before = total(loss, same, same, batch, targets).item()
    prepare(loss, (same, same), batch, targets)

    assert loss.is_zero_at_equality
    assert before == pytest.approx(0, abs=1e-6)
    assert total(loss, same, same, batch, targets).item() == pytest.approx(0, abs=1e-6)


def test_by_hand_with_another_level_it_is_not_0_at_equality(pair):
    student = pair[0]

    assert not HandsOnGuidance(student, student, correspondence={"P3": "P4"}).is_zero_at_equality


@pytest.mark.parametrize("channel", [0, 3])
def test_rescaling_a_channel_of_both_leaves_the_value(
    spec_of, random_output, batch, targets, channel
):
    spec = spec_of({"P3": 4})
    loss = HandsOnGuidance(spec, spec)
    outputs = [random_output(spec, len(SIZES), CANVAS, seed) for seed in (0, 1)]
    prepare(loss, outputs, batch, targets)
    before = total(loss, *outputs, batch, targets).item()
    factors = torch.ones(4, 1, 1)
    factors[channel] = 20.0
    rescaled = [
        DetectorOutput(features={"P3": output.features["P3"] * factors}) for output in outputs
    ]

    unprepared = total(loss, *rescaled, batch, targets).item()
    prepare(loss, rescaled, batch, targets)

    assert total(loss, *rescaled, batch, targets).item() == pytest.approx(before, rel=1e-4)
    assert abs(unprepared / before - 1) > 0.1


# Correspondence


def pairs_of(loss):
    return {
        one.level.name: guide.name
        for one, guide in zip(loss.levels, loss._guide_levels(), strict=True)
    }


def test_a_homogeneous_pair_is_paired_with_itself(pair, outputs, batch, targets):
    student = pair[0]
    loss = HandsOnGuidance(student, student)

    found = prepare(loss, (outputs[0], outputs[0]), batch, targets)

    assert found["correspondence"] == {name: name for name in pairs_of(loss)}
    for name, row in found["affinity"].items():
        assert row[name] == pytest.approx(1, abs=1e-4)
    assert set(found["left_out"].values()) == {0}


@pytest.mark.parametrize("extra", ["C3", "C4"])
def test_a_level_that_the_teacher_has_besides_is_skipped(spec_of, batch_of, extra):
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


def test_in_order_the_first_learns_from_the_first_whatever_is_seen(pair, outputs, batch, targets):
    loss = HandsOnGuidance(*pair, correspondence="order", groups=ALL)

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


def test_by_hand_levels_learn_from_those_named_alone(pair, outputs, batch, targets):
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


def test_channels_that_do_not_vary_are_told(pair, outputs, batch, targets):
    found = prepare(HandsOnGuidance(*pair, groups=ALL), outputs, batch, targets)

    assert found["left_out"] == dict.fromkeys(TEACHER, 1)


def test_a_teachers_image_that_is_not_finite_leaves_statistics_and_pairs_of_the_others(
    pair, outputs, batch, targets
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
    spec_of, random_output, batch, targets
):
    # P3 and P4 of the student are as P4 of the teacher, and not paired in order.
    own, guide = spec_of({"P3": 4, "P4": 4}), spec_of({"P3": 4, "P4": 4, "P5": 4})
    maps = random_output(guide, len(SIZES), CANVAS, 0)
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


def test_looking_again_pairs_anew(spec_of, random_output, batch):
    own, guide = spec_of({"P3": 4}), spec_of({"P3": 4, "P4": 4})
    maps = random_output(guide, len(SIZES), CANVAS, 0)
    loss = HandsOnGuidance(own, guide, stride_penalty=0.0)

    found = [
        prepare(loss, (DetectorOutput(features={"P3": maps.features[name]}), maps), batch, [])
        for name in ("P3", "P4")
    ]

    assert [one["correspondence"] for one in found] == [{"P3": "P3"}, {"P3": "P4"}]
    assert pairs_of(loss) == {"P3": "P4"}


@pytest.mark.parametrize("second", ["P3", "P4"])
def test_what_was_learned_is_forgotten_where_levels_are_paired_anew(
    spec_of, random_output, batch, second
):
    own, guide = spec_of({"C3": 4, "P3": 4}), spec_of({"C3": 4, "P3": 4, "P4": 4})
    maps = random_output(guide, len(SIZES), CANVAS, 0)
    loss = HandsOnGuidance(own, guide, stride_penalty=0.0, release=0.5)

    def look(name):
        features = {"C3": maps.features["C3"], "P3": maps.features[name]}
        prepare(loss, (DetectorOutput(features=features), maps), batch, [])

    look("P3")
    for progress in (0.0, START, STOP, 0.5):
        values = {"C3.difference": progress + 1, "P3.difference": 1.0}
        margins = {"C3.released": 0.5, "P3.released": 0.5 + progress}
        loss.learn(values | margins, progress=progress)
    learned = loss.macro.weights.tolist(), loss.margins.value.tolist()
    told = loss.remarks

    look(second)

    again = loss.macro.weights.tolist(), loss.margins.value.tolist()
    assert learned[0] != [1, 1]
    assert again == (learned if second == "P3" else ([1, 1], [0, 0]))
    # Told in the same words where the pair stays, so that the run does not tell it again.
    assert [line in told for line in loss.remarks[-2:]] == [True, second == "P3"]


# Groups and options


def test_groups_that_the_pair_does_not_have_are_left_out_and_remarked(spec_of):
    teacher = spec_of({"C3": 3}, family="bare")

    loss = HandsOnGuidance(spec_of(STUDENT, family="own"), teacher)

    assert loss.needs.student == loss.needs.teacher == {"features.backbone"}
    assert loss.remarks == ("neck is not compared: the teacher 'bare' without features.neck",)


def test_towers_of_heads_are_compared_if_they_are_asked_for_or_paired_by_hand(pair):
    assert HandsOnGuidance(*pair).needs.student == {"features.backbone", "features.neck"}
    for options in {"groups": ("head",)}, {"correspondence": {"cls.P3": "cls.P4"}}:
        assert HandsOnGuidance(*pair, **options).needs.student == {"features.head"}


def test_what_is_missing_is_still_remarked_once_it_is_prepared(spec_of, random_output, batch):
    spec = spec_of({"P3": 4})
    loss = HandsOnGuidance(spec, spec)
    output = random_output(spec, len(SIZES), CANVAS, 0)

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
    pair, outputs, batch, targets, options, parts
):
    loss = HandsOnGuidance(*pair, **options)
    wanted = {f"features.{part}" for part in parts}

    assert loss.needs.student == loss.needs.teacher == loss.preparation.parts == wanted
    assert loss.remarks == ()
    assert parts_of(loss, loss(*outputs, batch, targets)).keys() == parts


def test_parts_are_weighed_by_their_groups(pair, outputs, batch, targets):
    weights = {"backbone_weight": 2.0, "neck_weight": 0.25, "head_weight": 3.0}
    torch.manual_seed(0)
    loss = HandsOnGuidance(*pair, groups=ALL, **weights)

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


# Gradient and numbers


def test_gradients_reach_every_map_of_the_student_and_projector_and_none_of_the_teacher(
    pair, outputs, batch, targets
):
    for output in outputs:
        for feature in output.features.values():
            feature.requires_grad_()
    loss = HandsOnGuidance(*pair, groups=ALL, release=0.1)

    found = loss(*outputs, batch, targets)
    sum(parts_of(loss, found).values()).backward()

    assert not any(found[name].requires_grad for name in loss.figures)
    assert all(one.grad.any() for one in outputs[0].features.values())
    assert all(one.grad.any() for one in loss.parameters())
    assert all(one.grad is None for one in outputs[1].features.values())
    assert not any(one.requires_grad for one in loss.buffers())


@pytest.mark.parametrize("options", [{}, {"background": 0.0}, {"micro": False}])
def test_without_any_box_it_is_finite_with_a_gradient(pair, outputs, batch, target_of, options):
    loss = HandsOnGuidance(*pair, **options)

    value = total(loss, *outputs, batch, [target_of()] * len(SIZES))
    value.backward()

    assert 0 < value.item() < math.inf
    assert all(one.grad.isfinite().all() for one in loss.parameters())


def test_an_image_that_is_to_be_ignored_as_a_whole_adds_nothing(pair, outputs, batch, target_of):
    loss = HandsOnGuidance(*pair, groups=("neck",))
    everything = target_of(ignore=[(0, 0, CANVAS[1], CANVAS[0])])

    found = loss(*outputs, batch, [everything] * len(SIZES))

    assert found["neck"] == 0
    assert all(one.isfinite() for one in found.values())


def test_labels_and_weights_of_boxes_do_not_matter(pair, outputs, batch, targets):
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
    pair, outputs, batch, targets, options
):
    loss = HandsOnGuidance(*pair, groups=ALL, **options)
    half = [
        DetectorOutput(features={name: one.bfloat16() for name, one in output.features.items()})
        for output in outputs
    ]
    prepare(loss, half, batch, targets)

    found, expected = loss(*half, batch, targets), loss(*outputs, batch, targets)

    assert {one.dtype for one in found.values()} == {torch.float32}
    for name in ("backbone", "neck", "head"):
        assert found[name].item() == pytest.approx(expected[name].item(), rel=0.02)


# Faults


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"measure": "mse"}, ConfigError, r"^measure: found 'mse'\. Accepted: hands-on, squared"),
        ({"release": 1.5}, ConfigError, r"^release: found 1\.5\. Accepted: a number from 0 to be"),
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


def test_a_group_that_is_asked_for_and_missing_is_refused(spec_of):
    student, teacher = spec_of(STUDENT, family="own"), spec_of({"C3": 3, "P3": 4}, family="rcnn")
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

"""The whole loss. Oracles: a loop over cells in float64, and that equal maps differ by nothing."""

import math

import pytest
import torch

from distildet.losses.hands_on_guidance import HandsOnGuidance
from distildet.losses.hands_on_guidance.macro_weights import START, STOP
from distildet.structures import DetectorOutput

CANVAS = (64, 104)  # as in conftest
SIZES = ((64, 104), (40, 60), (64, 72))
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
def test_the_whole_loss_is_that_of_a_loop_over_cells(
    pair, outputs, batch, targets, options, prepare, parts_of
):
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
def test_it_is_0_at_equality_also_where_nothing_varies(
    pair, outputs, batch, targets, options, prepare, total
):
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
    spec_of, random_output, batch, targets, channel, prepare, total, sizes, canvas
):
    spec = spec_of({"P3": 4})
    loss = HandsOnGuidance(spec, spec)
    outputs = [random_output(spec, len(sizes), canvas, seed) for seed in (0, 1)]
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

"""Oracles: values by hand, and a loop over cells in float64."""

import pytest
import torch
from torch.nn import functional as F

from distildet.losses.global_knowledge.reliable_features import ReliableFeatures
from distildet.losses.weighted_sum import weighted_means

LINE_SIZE = (8, 32)  # four cells of 8 x 8
TEACHER, OFF = [1.0, 3.0, 1.0, 3.0], [1.0, 2.0, 3.0, 4.0]  # variance 1; squares 1 4 9 16


def line(*values):
    return torch.tensor(values).reshape(1, 1, 1, -1)


@pytest.fixture
def on_a_line(options_of, batch_of):
    """The value where the student is off by 1 2 3 4; the projector is still the identity."""

    def run(target, reliability, **options):
        term = ReliableFeatures({"P3": (1, 1)}, options_of(**options))
        maps = line(*TEACHER) + line(*OFF), line(*TEACHER)
        sums = term({"P3": maps}, batch_of((LINE_SIZE,), LINE_SIZE), [target], {"P3": reliability})
        return weighted_means({"feature": sums})["feature"].item()

    return run


# All boxes of a line are 8 pixels or more of a shorter side of 8: on one level they are all seen.


def test_in_the_paper_by_hand(on_a_line, target_of):
    # Half of 1, and all of 9 and 16, over 2 * 2.5.
    value = on_a_line(
        target_of((0, 0, 8, 8), (16, 0, 32, 8)), torch.tensor([0.5, 1.0]), variant="paper"
    )

    assert value == pytest.approx(25.5 / 5)


def test_officially_by_hand(on_a_line, target_of):
    # In boxes as above, outside 4 * 4 / 2.
    value = on_a_line(target_of((0, 0, 8, 8), (16, 0, 32, 8)), torch.tensor([0.5, 1.0]))

    assert value == pytest.approx(25.5 / 5 + 8)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"feature_weight": 3.0}, 3 * 9 / 2 + 4 * 21 / 3 / 2),
        ({"background_weight": 0.5}, 9 / 2 + 0.5 * 21 / 3 / 2),
        ({"background_weight": 0.0}, 9 / 2),
        ({"feature_weight": 0.0}, 4 * 21 / 3 / 2),
        ({"variant": "paper", "background_weight": 1.0}, 9 / 2 + 21 / 3 / 2),
    ],
)
def test_weights_are_factors_of_boxes_and_background(on_a_line, target_of, weights, expected):
    value = on_a_line(target_of((16, 0, 24, 8)), torch.ones(1), **weights)

    assert value == pytest.approx(expected)


def test_of_overlapping_boxes_the_smallest_gives_the_reliability(on_a_line, target_of):
    # Half of 1 and of 9, and all of 4, over 2 * 2.
    value = on_a_line(
        target_of((8, 0, 16, 8), (0, 0, 24, 8)), torch.tensor([1.0, 0.5]), variant="paper"
    )

    assert value == pytest.approx(9 / 4)


def test_a_box_that_is_not_relied_on_is_no_background_either(on_a_line, target_of):
    value = on_a_line(target_of((0, 0, 24, 8)), torch.zeros(1))

    assert value == pytest.approx(4 * 16 / 2)


@pytest.mark.parametrize(
    ("origin", "expected"), [("human", 1 / 2 + 4 * 25 / 2 / 2), ("teacher", 1 / 2 + 4 * 29 / 3 / 2)]
)
def test_ignore_regions_of_humans_are_no_background(on_a_line, target_of, origin, expected):
    target = target_of((0, 0, 8, 8), ignore=[(4, 0, 16, 8)], origin=origin)

    assert on_a_line(target, torch.ones(1)) == pytest.approx(expected)


def test_without_boxes_all_is_background(on_a_line, target_of):
    assert on_a_line(target_of(), torch.zeros(0)) == pytest.approx(4 * 30 / 4 / 2)
    assert on_a_line(target_of(), torch.zeros(0), variant="paper") == 0


@pytest.mark.parametrize("end", [16.0, 24.0])
def test_padding_counts_nowhere(options_of, batch_of, target_of, end):
    # The image ends after two cells, of variance 1, its box there or, by a fault, beyond.
    term = ReliableFeatures({"P3": (1, 1)}, options_of())
    guide = line(1.0, 3.0, 100.0, -50.0)
    batch = batch_of(((8, 16),), LINE_SIZE)

    sums = term(
        {"P3": (guide + line(1.0, 2.0, 9.0, 9.0), guide)},
        batch,
        [target_of((8, 0, end, 8))],
        {"P3": torch.ones(1)},
    )

    value = weighted_means({"feature": sums})["feature"]
    assert value.item() == pytest.approx(4 / 2 + 4 * 1 / 2)


@pytest.mark.parametrize(
    ("box", "level"),
    [
        # Of an image with a shorter side of 400 sides of 28 begin the first level, of 56 the next.
        ((0, 0, 2, 2), 0),
        ((0, 0, 55, 55), 0),
        ((0, 0, 57, 57), 1),
        ((0, 0, 111, 111), 1),
        ((0, 0, 113, 113), 2),
        ((0, 0, 390, 390), 2),
        # The root of width and height counts: 50 and 60.
        ((0, 0, 125, 20), 0),
        ((0, 0, 180, 20), 1),
        # Without area.
        ((9, 9, 9, 9), 0),
    ],
)
def test_officially_a_box_is_seen_on_the_level_of_its_size(
    options_of, batch_of, target_of, box, level
):
    assert seen_on(options_of(background_weight=0.0), batch_of, target_of(box)) == [
        float(place == level) for place in range(3)
    ]


def test_in_the_paper_a_box_is_seen_on_every_level(options_of, batch_of, target_of):
    assert seen_on(options_of(variant="paper"), batch_of, target_of((0, 0, 2, 2))) == [1.0] * 3


def seen_on(options, batch_of, target):
    """On each of three levels, of one cell each, whether the only box counts."""
    term = ReliableFeatures(dict.fromkeys(("P3", "P4", "P5"), (1, 1)), options)
    maps = {level: (torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1)) for level in term.levels}
    reliability = {level: torch.ones(1) for level in term.levels}

    # Of an image of 500 x 400 on a canvas of 640 x 640.
    sums = term(maps, batch_of(((500, 400),), (640, 640)), [target], reliability)

    return [one.count.item() for one in sums]


def test_officially_a_box_on_another_level_is_background(options_of, batch_of, target_of):
    # Images of 32 x 32 and two levels: sides below 4.48 on the first. Both boxes lie in its first
    # cell; off by 1 there and 2 elsewhere. The second level has one cell.
    options = options_of(feature_weight=0.0)
    term = ReliableFeatures({"P3": (1, 1), "P4": (1, 1)}, options)
    fine = torch.tensor([[1.0, 3.0], [1.0, 3.0]])[None, None]
    off = torch.tensor([[1.0, 2.0], [2.0, 2.0]])[None, None]

    def value(box):
        sums = term(
            {"P3": (fine + off, fine), "P4": (torch.ones(1, 1, 1, 1),) * 2},
            batch_of(((32, 32),), (32, 32)),
            [target_of(box)],
            {"P3": torch.ones(1), "P4": torch.ones(1)},
        )
        return weighted_means({"feature": sums})["feature"].item()

    # Half of the mean over levels: 4 / 2 levels / 2.
    assert value((0, 0, 4, 4)) == pytest.approx(4 * 12 / 3 / 2 / 2)
    assert value((0, 0, 16, 16)) == pytest.approx(4 * 13 / 4 / 2 / 2)


def naive(projected, guide, shown, kinds):
    """Of one level: sum over cells of weight times squared difference / (2 V), and of weights."""
    channels = range(guide.shape[1])
    variance = 0.0
    for c in channels:
        values = [guide[b, c, y, x].item() for b, y, x in shown]
        mean = sum(values) / len(values)
        variance += sum((value - mean) ** 2 for value in values) / len(values)
    value = sum(
        weight * sum((projected[b, c, y, x] - guide[b, c, y, x]).item() ** 2 for c in channels)
        for (b, y, x), weight in kinds.items()
    )
    return value / (2 * variance) / max(sum(kinds.values()), 1)


@pytest.mark.parametrize("variant", ["paper", "official"])
def test_it_is_a_loop_over_the_cells_of_all_images_and_levels(
    options_of, batch_of, target_of, variant
):
    # Cells of 8 x 8 and 16 x 16 on a canvas of 16 x 32, the second image of 16 x 16; the student's
    # first map is as coarse as its second. Boxes of sides below 2.24 are seen on the first level.
    torch.manual_seed(0)
    term = ReliableFeatures({"P3": (3, 2), "P4": (2, 4)}, options_of(variant=variant))
    batch = batch_of(((16, 32), (16, 16)), (16, 32))
    student = {"P3": torch.randn(2, 3, 1, 2), "P4": torch.randn(2, 2, 1, 2)}
    teacher = {"P3": torch.randn(2, 2, 2, 4) + 1, "P4": torch.randn(2, 4, 1, 2)}
    targets = [
        target_of((1, 1, 3, 3), (0, 0, 14, 7), (17, 9, 18, 11)),
        target_of((9, 1, 11, 3), ignore=[(0, 8, 8, 16)]),
    ]
    reliability = {
        "P3": torch.tensor([0.9, 0.5, 0.3, 0.8]),
        "P4": torch.tensor([0.2, 0.7, 0.6, 1.0]),
    }
    # Image, row, column.
    if variant == "paper":
        inside = {
            "P3": {(0, 0, 0): 0.9, (0, 0, 1): 0.5, (0, 1, 2): 0.3, (1, 0, 1): 0.8},
            "P4": {(0, 0, 0): 0.2, (0, 0, 1): 0.6, (1, 0, 0): 1.0},
        }
    else:
        inside = {
            "P3": {(0, 0, 0): 0.9, (0, 1, 2): 0.3, (1, 0, 1): 0.8},
            "P4": {(0, 0, 0): 0.7},
        }
    ignored = {"P3": {(1, 1, 0)}, "P4": {(1, 0, 0)}}

    sums = term(
        {level: (student[level], teacher[level]) for level in term.levels},
        batch,
        targets,
        reliability,
    )
    value = weighted_means({"feature": sums})["feature"]

    expected = 0.0
    for level, rows in (("P3", 2), ("P4", 1)):
        projected = term.projectors[level](student[level]).detach()
        projected = F.interpolate(projected, size=teacher[level].shape[2:], mode="bilinear")
        shown = [(0, y, x) for y in range(rows) for x in range(2 * rows)]
        shown += [(1, y, x) for y in range(rows) for x in range(rows)]
        expected += naive(projected, teacher[level], shown, inside[level]) / 2
        if variant == "official":
            outside = {cell: 1 for cell in shown if cell not in {*inside[level], *ignored[level]}}
            expected += 4 * naive(projected, teacher[level], shown, outside) / 2
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("variant", "side"), [("paper", 1), ("official", 3)])
def test_between_equal_channels_the_projector_starts_as_the_identity(options_of, variant, side):
    term = ReliableFeatures({"P3": (2, 2)}, options_of(variant=variant))
    feature = torch.rand(1, 2, 3, 4)

    torch.testing.assert_close(term.projectors["P3"](feature), feature)
    assert sorted(tuple(one.shape) for one in term.parameters()) == [(2,), (2, 2, side, side)]


@pytest.mark.parametrize(("variant", "least"), [("paper", 0.0), ("official", -1.0)])
def test_the_papers_projector_gives_nothing_below_0(options_of, variant, least):
    term = ReliableFeatures({"P3": (1, 1)}, options_of(variant=variant))

    assert term.projectors["P3"](-torch.ones(1, 1, 1, 1)).item() == least


def test_the_student_and_the_projector_alone_get_a_gradient(options_of, batch_of, target_of):
    term = ReliableFeatures({"P3": (1, 1)}, options_of())
    guide = line(*TEACHER).requires_grad_()
    student = (line(*TEACHER) + line(*OFF)).requires_grad_()

    sums = term(
        {"P3": (student, guide)},
        batch_of((LINE_SIZE,), LINE_SIZE),
        [target_of((0, 0, 8, 8))],
        {"P3": torch.ones(1)},
    )
    weighted_means({"feature": sums})["feature"].backward()

    assert guide.grad is None
    # 2 * 1 / 2 in the box; 4 * 2 * (2, 3, 4) / 2 / 3 outside.
    torch.testing.assert_close(student.grad, line(1.0, 8 / 3, 4.0, 16 / 3))
    assert all(parameter.grad.any() for parameter in term.parameters())

import pytest
import torch

from distildet.errors import ConfigError, MissingPartError
from distildet.losses.feature_imitation import FeatureImitation
from distildet.losses.foreground_imitation import ForegroundImitation
from distildet.structures import Targets

LINE, LINE_SIZE = (1, 1, 1, 4), (8, 32)  # four cells of 8 x 8


def make_targets(*boxes, ignore=(), origin="human", weight=1.0):
    return Targets(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.zeros(len(boxes), dtype=torch.int64),
        weights=torch.full((len(boxes),), weight),
        ignore=torch.tensor(ignore, dtype=torch.float32).reshape(-1, 4),
        known_classes=torch.ones(2, dtype=torch.bool),
        origin=origin,
    )


def naive(projected, guide, kinds):
    """Difference over variance, cell by cell; `kinds` maps (image, row, column) to a kind."""
    channels = range(guide.shape[1])
    variance, sums, counts = 0.0, {}, {}
    for c in channels:
        values = [guide[b, c, y, x].item() for b, y, x in kinds]
        mean = sum(values) / len(values)
        variance += sum((value - mean) ** 2 for value in values) / len(values)
    for (b, y, x), kind in kinds.items():
        difference = sum((projected[b, c, y, x] - guide[b, c, y, x]).item() ** 2 for c in channels)
        sums[kind] = sums.get(kind, 0.0) + difference
        counts[kind] = counts.get(kind, 0) + 1
    return {kind: sums[kind] / counts[kind] / variance for kind in sums}


@pytest.fixture
def on_a_line(spec_of, batch_of, output_of):
    """The values where the teacher has -1 1 -1 1, and the student is off by 1 2 3 4."""

    def run(targets, **options):
        loss = ForegroundImitation(spec_of({"P3": 1}), spec_of({"P3": 1}), **options)
        teacher = torch.tensor([-1.0, 1.0, -1.0, 1.0]).reshape(LINE)
        student = teacher + torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(LINE)
        batch = batch_of((LINE_SIZE,), LINE_SIZE)
        parts = loss(output_of(P3=student), output_of(P3=teacher), batch, (targets,))
        return {name: part.item() for name, part in parts.items()}

    return run


# The variance is 1: the parts are means of 1 4 9 16 over the cells of a kind.


def test_the_values_by_hand(on_a_line):
    parts = on_a_line(make_targets((8, 0, 16, 8)))

    assert parts == pytest.approx({"foreground": 4.0, "background": (1 + 9 + 16) / 3})


def test_a_cell_in_two_boxes_counts_once(on_a_line):
    parts = on_a_line(make_targets((8, 0, 24, 8), (2, 2, 9, 4)))

    assert parts == pytest.approx({"foreground": (1 + 4 + 9) / 3, "background": 16.0})


def test_the_scale_is_the_variance_of_all_cells(spec_of, batch_of, output_of):
    # Teacher 0 2 4 6: mean 3, variance 5. Student 0: differences 0 4 16 36.
    loss = ForegroundImitation(spec_of({"P3": 1}), spec_of({"P3": 1}))
    teacher = torch.tensor([0.0, 2.0, 4.0, 6.0]).reshape(LINE)
    student = torch.zeros(LINE)

    parts = loss(
        output_of(P3=student),
        output_of(P3=teacher),
        batch_of((LINE_SIZE,), LINE_SIZE),
        (make_targets((0, 0, 16, 8)),),
    )

    assert parts["foreground"].item() == pytest.approx((0 + 4) / 2 / 5)
    assert parts["background"].item() == pytest.approx((16 + 36) / 2 / 5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"foreground": 0.5, "background": 3.0}, {"foreground": 2.0, "background": 26.0}),
        ({"foreground": 0.0}, {"background": 26 / 3}),
        ({"background": 0.0}, {"foreground": 4.0}),
    ],
)
def test_the_factors_weigh_the_parts_and_0_leaves_one_out(on_a_line, options, expected):
    assert on_a_line(make_targets((8, 0, 16, 8)), **options) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        # A human's ignore region is neither, but for what is in a box too.
        (make_targets((8, 0, 16, 8), ignore=[(8, 0, 24, 8)]), (4.0, (1 + 16) / 2)),
        # A teacher's is background.
        (
            make_targets((8, 0, 16, 8), ignore=[(8, 0, 24, 8)], origin="teacher"),
            (4.0, (1 + 9 + 16) / 3),
        ),
        # Boxes count the same whatever their weight and whoever drew them.
        (make_targets((8, 0, 16, 8), weight=0.1, origin="teacher"), (4.0, (1 + 9 + 16) / 3)),
        # All is one of the two, or nothing.
        (make_targets(), (0.0, (1 + 4 + 9 + 16) / 4)),
        (make_targets((0, 0, 32, 8)), ((1 + 4 + 9 + 16) / 4, 0.0)),
        (make_targets(ignore=[(0, 0, 32, 8)]), (0.0, 0.0)),
    ],
)
def test_which_cells_are_foreground_and_background(on_a_line, targets, expected):
    parts = on_a_line(targets)

    assert (parts["foreground"], parts["background"]) == pytest.approx(expected)


def test_the_values_equal_a_loop_over_the_cells_that_show_image(spec_of, batch_of, output_of):
    torch.manual_seed(0)
    loss = ForegroundImitation(spec_of({"P3": 3}), spec_of({"P3": 2}))
    student, teacher = torch.randn(2, 3, 3, 4), torch.randn(2, 2, 3, 4) + 1
    # Cells are 8 x 8; the second image ends inside its second row and after its third column.
    batch = batch_of(((24, 32), (9, 24)), (24, 32))
    targets = make_targets((4, 4, 12, 7)), make_targets((17, 8, 24, 9), (3, 1, 4, 2))
    objects = {(0, 0, 0), (0, 0, 1), (1, 1, 2), (1, 0, 0)}
    valid = [(0, y, x) for y in range(3) for x in range(4)]
    valid += [(1, y, x) for y in range(2) for x in range(3)]

    parts = loss(output_of(P3=student), output_of(P3=teacher), batch, targets)

    expected = naive(
        loss.projectors["P3"](student).detach(),
        teacher,
        {cell: "foreground" if cell in objects else "background" for cell in valid},
    )
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(expected, rel=1e-5)


def test_the_levels_count_equally_each_with_its_own_cells(spec_of, batch_of, output_of):
    # P3 is off by 2, 6 in the box, and has variance 1: 36 and 4. P4 has two cells, the box in the
    # first; off by 1 and 3 of variance 1: 1 and 9.
    pyramid = spec_of({"P3": 1, "P4": 1})
    loss = ForegroundImitation(pyramid, pyramid)
    fine = torch.tensor([-1.0, 1.0, -1.0, 1.0]).reshape(LINE)
    coarse = torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2)
    off = torch.tensor([2.0, 6.0, 2.0, 2.0]).reshape(LINE)
    student = output_of(P3=fine + off, P4=coarse + torch.tensor([1.0, 3.0]))

    parts = loss(
        student,
        output_of(P3=fine, P4=coarse),
        batch_of((LINE_SIZE,), LINE_SIZE),
        (make_targets((8, 0, 16, 8)),),
    )

    assert parts["foreground"].item() == pytest.approx((36 + 1) / 2)
    assert parts["background"].item() == pytest.approx((4 + 9) / 2)


def test_the_parts_weighted_by_their_cells_are_feature_imitation(spec_of, batch_of, output_of):
    torch.manual_seed(0)
    pair = spec_of({"P3": 3}), spec_of({"P3": 3})
    student, teacher = output_of(P3=torch.randn(2, 3, 2, 4)), output_of(P3=torch.randn(2, 3, 2, 4))
    batch = batch_of(((16, 32),) * 2, (16, 32))
    # 3 of 16 cells are in boxes.
    targets = make_targets((0, 0, 9, 8)), make_targets((17, 9, 18, 10))

    parts = ForegroundImitation(*pair)(student, teacher, batch, targets)

    whole = FeatureImitation(*pair)(student, teacher, batch, targets)["feature"].item()
    mean = (3 * parts["foreground"].item() + 13 * parts["background"].item()) / 16
    assert mean == pytest.approx(whole, rel=1e-5)


def test_without_boxes_the_foreground_is_0_with_a_gradient_of_0(spec_of, batch_of, output_of):
    loss = ForegroundImitation(spec_of({"P3": 1}), spec_of({"P3": 1}), background=0.0)
    student = torch.randn(LINE, requires_grad=True)

    parts = loss(
        output_of(P3=student),
        output_of(P3=torch.randn(LINE)),
        batch_of((LINE_SIZE,), LINE_SIZE),
        (make_targets(),),
    )
    parts["foreground"].backward()

    assert parts["foreground"].item() == 0.0
    assert student.grad.equal(torch.zeros(LINE))
    assert not loss.projectors["P3"].weight.grad.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"foreground": -1.0}, r"^foreground: found -1\.0\. Accepted: a finite number of 0 or mo"),
        ({"background": float("inf")}, r"^background: found inf\."),
        (
            {"foreground": float("nan"), "background": -0.5},
            r"(?s)^foreground: found nan\..*\nbackground: found -0\.5\.",
        ),
        ({"foreground": 0.0, "background": 0.0}, r"^foreground, background: found 0 for both"),
        ({"levels": ()}, r"^levels: found \[\]\."),
    ],
)
def test_options_without_a_meaning_are_refused(spec_of, options, message):
    with pytest.raises(ConfigError, match=message):
        ForegroundImitation(spec_of({"P3": 1}), spec_of({"P3": 1}), **options)


def test_levels_that_one_side_lacks_are_refused_and_others_compared_alone(spec_of):
    student, teacher = spec_of({"P3": 1, "P4": 1}), spec_of({"P4": 1, "P5": 1})

    assert list(ForegroundImitation(student, teacher).projectors) == ["P4"]
    with pytest.raises(MissingPartError, match=r"levels: P3 is not on both sides"):
        ForegroundImitation(student, teacher, levels=("P3",))

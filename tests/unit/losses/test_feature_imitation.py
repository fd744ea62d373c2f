import pytest
import torch

from distildet.errors import ConfigError, MissingPartError
from distildet.losses.feature_imitation import FeatureImitation

WHOLE = ((16, 16),)


def fixed(loss, weight=None):
    """The loss with projectors that have no bias and, where given, the same weight everywhere."""
    for projector in loss.projectors.values():
        torch.nn.init.zeros_(projector.bias)
        if weight is not None:
            torch.nn.init.constant_(projector.weight, weight)
    return loss


def naive(projected, guide, valid):
    """Difference over variance, cell by cell; `valid` lists (image, row, column)."""
    channels = range(guide.shape[1])
    difference = variance = 0.0
    for c in channels:
        values = [guide[b, c, y, x].item() for b, y, x in valid]
        mean = sum(values) / len(values)
        variance += sum((value - mean) ** 2 for value in values)
        difference += sum(
            (projected[b, c, y, x] - guide[b, c, y, x]).item() ** 2 for b, y, x in valid
        )
    return difference / variance


def test_the_value_by_hand(spec_of, batch_of, output_of):
    # Teacher 0 2 4 6: mean 3, variance (9 + 1 + 1 + 9) / 4 = 5. Student doubled: 2 2 2 2,
    # difference (4 + 0 + 4 + 16) / 4 = 6. 6 / 5 = 1.2.
    loss = fixed(FeatureImitation(spec_of({"P3": 1}), spec_of({"P3": 1})), weight=2.0)
    student = output_of(P3=torch.ones(1, 1, 2, 2))
    teacher = output_of(P3=torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]]))

    parts = loss(student, teacher, batch_of(WHOLE, (16, 16)), ())

    assert parts.keys() == {"feature"}
    assert parts["feature"].item() == pytest.approx(1.2)


def test_the_value_equals_a_loop_over_the_cells_that_show_image(spec_of, batch_of, output_of):
    torch.manual_seed(0)
    loss = FeatureImitation(spec_of({"P3": 3}), spec_of({"P3": 2}))
    student, teacher = torch.randn(2, 3, 3, 4), torch.randn(2, 2, 3, 4) + 1
    # Cells are 8 x 8; the second image ends inside its second row and after its third column.
    batch = batch_of(((24, 32), (9, 24)), (24, 32))
    valid = [(0, y, x) for y in range(3) for x in range(4)]
    valid += [(1, y, x) for y in range(2) for x in range(3)]

    value = loss(output_of(P3=student), output_of(P3=teacher), batch, ())["feature"]

    expected = naive(loss.projectors["P3"](student).detach(), teacher, valid)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_what_stands_in_the_padding_changes_nothing(spec_of, batch_of, output_of):
    loss = FeatureImitation(spec_of({"P3": 2}), spec_of({"P3": 2}))
    batch = batch_of(((8, 16),), (16, 16))
    torch.manual_seed(0)
    student, teacher = torch.randn(1, 2, 2, 2), torch.randn(1, 2, 2, 2)
    other_student, other_teacher = student.clone(), teacher.clone()
    other_student[:, :, 1], other_teacher[:, :, 1] = 5.0, -7.0

    value = loss(output_of(P3=student), output_of(P3=teacher), batch, ())["feature"]
    other = loss(output_of(P3=other_student), output_of(P3=other_teacher), batch, ())["feature"]

    assert value.equal(other)


def test_cells_are_measured_by_the_map_where_the_stride_does_not_divide(
    spec_of, batch_of, output_of
):
    # 20 pixels in 3 cells: these begin at 0, 6.67 and 13.3 (not 0, 8, 16). A width of 14 shows
    # all three, so the last one counts: its difference is 9 of 9, the variance of 0 0 3 is 2.
    loss = fixed(FeatureImitation(spec_of({"P3": 1}), spec_of({"P3": 1})), weight=0.0)
    teacher = torch.tensor([[[[0.0, 0.0, 3.0]]]])

    value = loss(
        output_of(P3=torch.ones(1, 1, 1, 3)),
        output_of(P3=teacher),
        batch_of(((8, 14),), (8, 20)),
        (),
    )["feature"]

    assert value.item() == pytest.approx(3.0 / 2.0)


def test_the_mean_of_each_channel_is_worth_1(spec_of, batch_of, output_of):
    torch.manual_seed(0)
    loss = FeatureImitation(spec_of({"P3": 3}), spec_of({"P3": 3}))
    teacher = torch.randn(2, 3, 2, 2) * 5 + torch.tensor([1.0, -4.0, 9.0])[:, None, None]
    student = teacher.mean((0, 2, 3), keepdim=True).expand(2, 3, 2, 2)

    value = loss(output_of(P3=student), output_of(P3=teacher), batch_of(WHOLE * 2, (16, 16)), ())[
        "feature"
    ]

    assert value.item() == pytest.approx(1.0, rel=1e-5)


def test_the_scale_of_the_teacher_does_not_matter(spec_of, batch_of, output_of):
    torch.manual_seed(0)
    loss = FeatureImitation(spec_of({"P3": 3}), spec_of({"P3": 3}))
    student, teacher = torch.randn(1, 3, 2, 2), torch.randn(1, 3, 2, 2)
    batch = batch_of(WHOLE, (16, 16))

    value = loss(output_of(P3=student), output_of(P3=teacher), batch, ())["feature"]
    scaled = loss(output_of(P3=student * 100), output_of(P3=teacher * 100), batch, ())["feature"]

    assert scaled.item() == pytest.approx(value.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        # One value everywhere: variance 0, so 0.01 * 10 ** 2 = 1 takes its place: (12 - 10) ** 2.
        (10.0, 12.0, 4.0),
        # Nothing at all: the difference itself.
        (0.0, 3.0, 9.0),
        (0.0, 0.0, 0.0),
    ],
)
@pytest.mark.parametrize("cells", [1, 2])
def test_a_map_without_variance_has_a_defined_value(
    spec_of, batch_of, output_of, teacher, student, expected, cells
):
    loss = FeatureImitation(spec_of({"P3": 1}), spec_of({"P3": 1}))
    shape = (1, 1, cells, cells)

    value = loss(
        output_of(P3=torch.full(shape, student)),
        output_of(P3=torch.full(shape, teacher)),
        batch_of(WHOLE, (16, 16)),
        (),
    )["feature"]

    assert value.item() == pytest.approx(expected)


def test_the_levels_count_equally_whatever_their_size(spec_of, batch_of, output_of):
    # P3: difference 4 of variance 1; P4: 0. Mean 2.
    pyramid = spec_of({"P3": 1, "P4": 1})
    loss = FeatureImitation(pyramid, pyramid)
    teacher = torch.tensor([[[[-1.0, 1.0], [1.0, -1.0]]]])
    small = torch.tensor([[[[2.0]]]])

    value = loss(
        output_of(P3=teacher + 2, P4=small),
        output_of(P3=teacher, P4=small),
        batch_of(WHOLE, (16, 16)),
        (),
    )["feature"]

    assert value.item() == pytest.approx(2.0)


def test_a_map_of_another_size_is_resized_to_the_teachers(spec_of, batch_of, output_of):
    # 0 and 4 in two cells become 0 1 3 4 in four (bilinear, cell centres): 0 against the teacher.
    loss = FeatureImitation(spec_of({"P3": 1}), spec_of({"P3": 1}))
    student = torch.tensor([[[[0.0, 4.0]]]])
    teacher = torch.tensor([[[[0.0, 1.0, 3.0, 4.0]]]])

    value = loss(output_of(P3=student), output_of(P3=teacher), batch_of(((8, 32),), (8, 32)), ())[
        "feature"
    ]

    assert value.item() == pytest.approx(0.0, abs=1e-12)


def test_the_sum_does_not_overflow_in_half_precision(spec_of, batch_of, output_of):
    loss = FeatureImitation(spec_of({"P3": 1}), spec_of({"P3": 1})).half()
    student = torch.full((1, 1, 2, 2), 300.0, dtype=torch.float16)
    teacher = torch.tensor([[[[-300.0, 300.0], [300.0, -300.0]]]], dtype=torch.float16)

    value = loss(output_of(P3=student), output_of(P3=teacher), batch_of(WHOLE, (16, 16)), ())

    # Two of four cells differ by 600: 600 ** 2 / 2 = 180 000, of the variance 90 000.
    assert value["feature"].dtype == torch.float32
    assert value["feature"].item() == pytest.approx(2.0)


def test_a_projector_between_equal_channels_starts_as_the_identity(spec_of):
    loss = FeatureImitation(spec_of({"P3": 4, "P4": 4}), spec_of({"P3": 4, "P4": 6}))
    feature = torch.randn(1, 4, 2, 2)

    assert loss.projectors["P3"](feature).equal(feature)
    assert loss.projectors["P4"](feature).shape == (1, 6, 2, 2)


@pytest.mark.parametrize(
    ("asked", "compared"), [(None, ("P3", "P4")), (("P4",), ("P4",)), (("P4", "P3"), ("P4", "P3"))]
)
def test_the_levels_that_both_have_or_those_asked_for_are_compared(spec_of, asked, compared):
    student, teacher = spec_of({"P3": 2, "P4": 2, "P5": 2}), spec_of({"P2": 2, "P3": 2, "P4": 2})

    assert FeatureImitation(student, teacher, levels=asked).levels == compared


@pytest.mark.parametrize(
    ("levels", "error", "message"),
    [
        ((), ConfigError, r"levels: found \[\]\. Accepted: different levels of P4, at least one"),
        (("P4", "P4"), ConfigError, r"levels: found \['P4', 'P4'\]"),
        (("P3",), MissingPartError, r"P3 is not on both sides\. The student has P3, P4; the teach"),
        (("P4", "P9"), MissingPartError, r"levels: P9 is not on both sides"),
    ],
)
def test_levels_that_cannot_be_compared_are_refused(spec_of, levels, error, message):
    with pytest.raises(error, match=message):
        FeatureImitation(spec_of({"P3": 2, "P4": 2}), spec_of({"P4": 2, "P5": 2}), levels=levels)


def test_pyramids_without_a_common_level_are_refused(spec_of):
    with pytest.raises(MissingPartError, match=r"no neck level in common\. The student has P3; t"):
        FeatureImitation(spec_of({"P3": 2}), spec_of({"P4": 2}))

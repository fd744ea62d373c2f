"""Fusion of boxes, against values by hand and a loop written from the definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distildet.ops.box_fusion import strongest_boxes, weighted_boxes, without_duplicates


def fuse(rows, *, trust, known, iou=0.55):
    """Fuse rows of (teacher, label, score, box)."""
    return weighted_boxes(
        torch.tensor([box for *_, box in rows], dtype=torch.float32).reshape(-1, 4),
        torch.tensor([score for _, _, score, _ in rows], dtype=torch.float32),
        torch.tensor([label for _, label, _, _ in rows], dtype=torch.int64),
        torch.tensor([teacher for teacher, *_ in rows], dtype=torch.int64),
        trust=torch.tensor(trust, dtype=torch.float32),
        known=torch.tensor(known),
        iou=iou,
    )


def box_iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else 0.0


def fuse_naively(rows, *, trust, known, iou):
    """Fuse as the definition says: every group is kept, and averaged anew after each box."""
    result = []
    for label in range(len(known[0])):
        groups = []
        boxes = [row for row in rows if row[1] == label]
        # Python's sort keeps the order of equal weights.
        for row in sorted(boxes, key=lambda row: -trust[row[0]] * max(row[2], 1e-6)):
            overlaps = [box_iou(row[3], mean_of(group, trust)) for group in groups]
            best = max(overlaps, default=0.0)
            if best > iou:
                groups[overlaps.index(best)].append(row)
            else:
                groups.append([row])
        voters = [t for t in range(len(trust)) if known[t][label]]
        for group in groups:
            votes = [max((r[2] for r in group if r[0] == t), default=0.0) for t in voters]
            score = sum(trust[t] * vote for t, vote in zip(voters, votes, strict=True))
            result.append((score / sum(trust[t] for t in voters), label, mean_of(group, trust)))
    return sorted(result, key=lambda row: (-round(row[0], 5), row[1]))


def mean_of(group, trust):
    weights = [trust[row[0]] * max(row[2], 1e-6) for row in group]
    total = sum(weights)
    return [
        sum(weight * row[3][side] for weight, row in zip(weights, group, strict=True)) / total
        for side in range(4)
    ]


def test_boxes_of_one_object_are_averaged_by_score():
    boxes, scores, labels = fuse(
        [(0, 0, 0.6, [0, 0, 10, 10]), (1, 0, 0.2, [0, 0, 14, 10])],
        trust=[1, 1],
        known=[[True], [True]],
    )

    # IoU 100 / 140 = 0.71. (0.6 * 10 + 0.2 * 14) / 0.8 = 11; (0.6 + 0.2) / 2 = 0.4.
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 11.0, 10.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.4]))
    assert labels.tolist() == [0]


def test_a_teacher_that_knows_the_class_and_found_nothing_votes_zero():
    rows = [(0, 0, 0.9, [0, 0, 10, 10])]

    _, scores, _ = fuse(rows, trust=[1, 1, 1], known=[[True], [True], [False]])

    # Two of three know the class: (0.9 + 0) / 2.
    torch.testing.assert_close(scores, torch.tensor([0.45]))


def test_trust_weighs_boxes_and_votes():
    boxes, scores, _ = fuse(
        [(0, 0, 0.5, [0, 0, 10, 10]), (1, 0, 0.5, [0, 0, 12, 10])],
        trust=[1, 3],
        known=[[True], [True]],
    )
    _, alone, _ = fuse([(0, 0, 0.8, [0, 0, 10, 10])], trust=[1, 3], known=[[True], [True]])

    # (0.5 * 10 + 1.5 * 12) / 2 = 11.5; (1 * 0.5 + 3 * 0.5) / 4 = 0.5; 1 * 0.8 / 4 = 0.2.
    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 11.5, 10.0]]))
    torch.testing.assert_close(scores, torch.tensor([0.5]))
    torch.testing.assert_close(alone, torch.tensor([0.2]))


def test_a_teacher_votes_once_with_its_best_box():
    _, scores, _ = fuse(
        [(0, 0, 0.8, [0, 0, 10, 10]), (0, 0, 0.6, [0, 0, 10, 9])],
        trust=[1, 1],
        known=[[True], [True]],
    )

    torch.testing.assert_close(scores, torch.tensor([0.4]))


def test_boxes_of_different_classes_are_not_fused():
    boxes, _, labels = fuse(
        [(0, 1, 0.5, [0, 0, 10, 10]), (1, 0, 0.5, [0, 0, 10, 10])],
        trust=[1, 1],
        known=[[False, True], [True, False]],
    )

    # Of equal scores the smaller label stands first.
    assert labels.tolist() == [0, 1]
    assert len(boxes) == 2


def test_scores_of_zero_are_fused_without_a_division_by_zero():
    boxes, scores, _ = fuse(
        [(0, 0, 0.0, [0, 0, 10, 10]), (1, 0, 0.0, [0, 0, 12, 10])],
        trust=[1, 1],
        known=[[True], [True]],
    )

    torch.testing.assert_close(boxes, torch.tensor([[0.0, 0.0, 11.0, 10.0]]))
    assert scores.tolist() == [0.0]


def test_boxes_without_area_overlap_nothing():
    boxes, _, _ = fuse(
        [(0, 0, 0.5, [5, 5, 5, 5]), (1, 0, 0.4, [5, 5, 5, 5])],
        trust=[1, 1],
        known=[[True], [True]],
    )

    assert len(boxes) == 2


def test_nothing_found_by_anybody_is_nothing():
    boxes, scores, labels = fuse([], trust=[1, 1], known=[[True], [True]])

    assert (boxes.shape, scores.shape, labels.dtype) == ((0, 4), (0,), torch.int64)


ROW = st.tuples(
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.5, 0.75, 1.0]),  # many ties
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 16), st.integers(0, 16)).map(
        lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(ROW, max_size=25), st.sampled_from([[1, 1, 1], [1, 2, 0.5]]))
def test_the_loop_of_the_definition_gives_the_same(rows, trust):
    # Teacher 2 does not know class 1.
    known = [[True, True, True], [True, True, True], [True, False, True]]
    pooled = sorted((r for r in rows if known[r[0]][r[1]]), key=lambda row: row[0])

    boxes, scores, labels = fuse(pooled, trust=trust, known=known, iou=0.3)
    expected = fuse_naively(pooled, trust=trust, known=known, iou=0.3)

    found = sorted(
        zip(scores.tolist(), labels.tolist(), boxes.tolist(), strict=True),
        key=lambda row: (-round(row[0], 5), row[1], row[2]),
    )
    expected.sort(key=lambda row: (-round(row[0], 5), row[1], row[2]))
    assert [row[1] for row in found] == [row[1] for row in expected]
    assert [row[0] for row in found] == pytest.approx([row[0] for row in expected], abs=1e-6)
    assert torch.allclose(
        torch.tensor([row[2] for row in found]).reshape(-1, 4),
        torch.tensor([row[2] for row in expected], dtype=torch.float32).reshape(-1, 4),
        atol=1e-4,
    )


def test_the_strongest_box_of_a_class_stays_as_it_is():
    boxes, scores, labels = strongest_boxes(
        torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]]),
        torch.tensor([0.6, 0.8, 0.5, 0.1]),
        torch.tensor([0, 0, 1, 0]),
        torch.tensor([0, 1, 1, 0]),
        trust=torch.tensor([1.0, 1.0]),
        iou=0.55,
    )

    assert boxes.tolist() == [[0, 0, 10, 9], [0, 0, 10, 10], [50, 50, 60, 60]]
    torch.testing.assert_close(scores, torch.tensor([0.8, 0.5, 0.1]))
    assert labels.tolist() == [0, 1, 0]


def test_a_trusted_teacher_is_stronger_at_the_same_score():
    boxes, scores, _ = strongest_boxes(
        torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]]),
        torch.tensor([0.5, 0.6]),
        torch.tensor([0, 0]),
        torch.tensor([0, 1]),
        trust=torch.tensor([2.0, 1.0]),
        iou=0.55,
    )

    # 2 * 0.5 > 1 * 0.6
    assert boxes.tolist() == [[0, 0, 10, 10]]
    assert scores.tolist() == [0.5]


@pytest.mark.parametrize(("iou", "labels"), [(0.9, [0, 2]), (1.0, [0, 1, 2])])
def test_of_boxes_of_two_classes_that_are_nearly_the_same_the_better_stays(iou, labels):
    # IoU of the first two 95 / 100; of the third, half as wide, at most 0.5.
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9.5], [0, 0, 5, 10]])

    found = without_duplicates(
        boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 2]), iou=iou
    )

    assert found[2].tolist() == labels

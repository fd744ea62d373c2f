"""Oracles: groups of levels by hand."""

import pytest

from distildet.errors import MissingPartError
from distildet.losses.hands_on_guidance.levels import (
    learning_groups,
    level_groups,
    missing_groups,
    student_levels,
)

EVERY = ("backbone", "neck", "head")


@pytest.fixture
def pair(spec_of):
    """A student whose levels come in no order, and a teacher without its tower for centres."""
    student = spec_of(
        {"C4": 2, "C3": 1, "P4": 3, "P3": 3, "box.P3": 4, "cls.P4": 4, "cls.P3": 4, "ctr.P3": 4}
    )
    teacher = spec_of(
        {"C2": 5, "C3": 6, "C4": 7, "P3": 8, "cls.P3": 8, "cls.P5": 8, "box.P4": 8, "box.P3": 8}
    )
    return student, teacher


def names(groups):
    return [
        (one.group, [level.name for level in one.own], [level.name for level in one.guide])
        for one in groups
    ]


def test_levels_of_one_role_are_a_group_finest_first_and_each_tower_has_its_own(pair):
    assert names(level_groups(*pair, EVERY)) == [
        ("backbone", ["C3", "C4"], ["C2", "C3", "C4"]),
        ("neck", ["P3", "P4"], ["P3"]),
        ("head", ["box.P3"], ["box.P3", "box.P4"]),
        ("head", ["cls.P3", "cls.P4"], ["cls.P3", "cls.P5"]),
    ]


def test_groups_that_are_not_asked_for_are_not_returned(pair):
    assert names(level_groups(*pair, ("neck",))) == [("neck", ["P3", "P4"], ["P3"])]


@pytest.mark.parametrize(
    ("own", "guide", "reasons"),
    [
        ({"C3": 1, "P3": 1, "cls.P3": 1}, {"C3": 1, "P3": 1, "cls.P3": 1}, []),
        (
            {"P3": 1, "cls.P3": 1},
            {"C3": 1, "P3": 1},
            [
                "backbone is not compared: the student 'own' without features.backbone",
                "head is not compared: the teacher 'guide' without features.head",
            ],
        ),
        (
            {"C3": 1, "P3": 1, "cls.P3": 1},
            {"C3": 1, "P3": 1, "box.P3": 1},
            ["head is not compared: no tower on both sides"],
        ),
        (
            {"C3": 1, "P3": 1},
            {"C3": 1, "P3": 1},
            [
                "head is not compared: the student 'own' and the teacher 'guide' without "
                "features.head"
            ],
        ),
    ],
)
def test_why_a_group_is_missing_is_told(spec_of, own, guide, reasons):
    found = missing_groups(spec_of(own, family="own"), spec_of(guide, family="guide"), EVERY)

    assert found == reasons


def places(levels):
    return [(one.level.name, one.group, one.place, one.guide) for one in levels]


def test_to_begin_with_the_first_learns_from_the_first_and_the_rest_from_the_last(pair):
    groups = level_groups(*pair, ("backbone", "neck"))

    assert places(student_levels(groups, None)) == [
        ("C3", 0, 0, 0),
        ("C4", 0, 1, 1),
        ("P3", 1, 0, 0),
        ("P4", 1, 1, 0),
    ]


def test_by_hand_those_named_learn_alone_and_keep_their_place_in_the_group(pair):
    by_hand = {"cls.P4": "cls.P3", "C4": "C2"}

    groups = learning_groups(level_groups(*pair, EVERY), by_hand)

    assert [group.group for group in groups] == ["backbone", "head"]
    assert places(student_levels(groups, by_hand)) == [("C4", 0, 1, 0), ("cls.P4", 1, 1, 0)]


def test_levels_that_are_not_there_or_play_another_role_are_refused_at_once(pair):
    groups = level_groups(*pair, ("backbone", "neck"))

    with pytest.raises(MissingPartError) as error:
        learning_groups(groups, {"C5": "C4", "C3": "P3", "P3": "P3", "P4": "P9"})

    assert str(error.value).splitlines() == [
        "correspondence: found 'C5', which is no level of the student that is compared. Accepted: "
        "C3, C4, P3, P4.",
        "correspondence: C3: found 'P3'. Accepted: C2, C3, C4.",
        "correspondence: P4: found 'P9'. Accepted: P3.",
    ]

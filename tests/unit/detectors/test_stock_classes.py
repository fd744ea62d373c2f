from pathlib import Path

import pytest

from distildet.classes import ClassList
from distildet.detectors.stock_classes import class_columns, unused_columns
from distildet.errors import WeightsError

FILE = Path("weights.pth")
ABC = ClassList(("a", "b", "c"))


def test_the_columns_of_coco_are_its_category_ids():
    columns = class_columns(FILE, 91, None, has_background=False)

    assert len(columns) == 80
    assert (columns[1], columns[11], columns[13], columns[90]) == (
        "person",
        "fire hydrant",
        "stop sign",
        "toothbrush",
    )
    assert not {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83} & columns.keys()
    assert class_columns(FILE, 91, None, has_background=True) == columns


@pytest.mark.parametrize(
    ("num_columns", "has_background", "expected"),
    [
        (3, False, {0: "a", 1: "b", 2: "c"}),
        (4, False, {1: "a", 2: "b", 3: "c"}),
        (4, True, {1: "a", 2: "b", 3: "c"}),
    ],
)
def test_given_names_are_those_of_the_last_columns(num_columns, has_background, expected):
    assert class_columns(FILE, num_columns, ABC, has_background=has_background) == expected


@pytest.mark.parametrize(
    ("num_columns", "has_background", "accepted"),
    [(5, False, "5 or 4 names"), (3, True, "2 names"), (2, False, "2 or 1 names")],
)
def test_another_number_of_names_is_refused_with_the_accepted_ones(
    num_columns, has_background, accepted
):
    with pytest.raises(WeightsError, match=f"has 3 names, but .* {num_columns} .*: {accepted}"):
        class_columns(FILE, num_columns, ABC, has_background=has_background)


def test_names_that_do_not_fit_the_columns_of_coco_may_be_left_out():
    with pytest.raises(WeightsError, match=r"91 or 90 names\. Leave `classes` out for COCO's"):
        class_columns(FILE, 91, ABC, has_background=False)


@pytest.mark.parametrize(
    ("has_background", "accepted"), [(False, "4 or 3 names"), (True, "3 names")]
)
def test_missing_names_are_asked_for_with_the_way_to_keep_them(has_background, accepted):
    with pytest.raises(WeightsError, match=rf"`classes`, a list of {accepted}.*save_detector\("):
        class_columns(FILE, 4, None, has_background=has_background)


def test_unused_columns_are_counted_without_background():
    assert unused_columns(6, [1, 2, 5]) == (2, 3)

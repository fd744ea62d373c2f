"""Numbers and notes of formats with one annotation file an image."""

import math
from pathlib import Path

import pytest

from distildet.data.annotation_text import read_number, unlabeled_line


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12.0), ("-.5", -0.5), ("1e-3", 0.001), ("+7.", 7.0), ("1e999", math.inf)],
)
def test_plain_numbers_are_read(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "1,5", "1_0", "٤", "0x1F", "1 2", "true"])
def test_what_is_no_plain_number_is_none(text):
    assert read_number(text) is None


def test_names_with_line_feeds_stay_on_one_line():
    line = unlabeled_line(Path("a\nb"), ["c\nd.png"], "a label file")

    assert line == (
        "a\\nb: 1 images without a label file, which are unlabeled, not background: 'c\\nd.png'"
    )

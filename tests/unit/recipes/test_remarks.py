"""Thousands of remarks are told in a few lines."""

import pytest

from distildet.recipes.remarks import shorten_remarks


def rows(count, text="class '7'; accepted are 0..3"):
    return [f"labels/{index}.txt:{index}: {text}" for index in range(count)]


def boxes(count):
    return [
        f"labels.json: annotation {index} (image '{index:c}.png'): bbox [{index / 1e6}, 0, -1, 1] "
        f"has no area inside the image of {index}x8 pixels"
        for index in range(65, 65 + count)
    ]


@pytest.mark.parametrize("lines", [[], rows(20), [*rows(20), *boxes(20), "3 images are left out"]])
def test_a_few_remarks_are_told_as_they_are(lines):
    assert shorten_remarks(lines) == lines


def test_of_each_kind_the_first_lines_are_told_and_the_others_counted():
    lines = [*rows(30_000), *boxes(21), *rows(2, "a number is missing"), "data.yaml: 3 images"]

    assert shorten_remarks(lines) == [
        *rows(20),
        "... and 29980 more like these, in remarks.txt",
        *boxes(20),
        "... and 1 more like these, in remarks.txt",
        *rows(2, "a number is missing"),
        "data.yaml: 3 images",
    ]


def test_remarks_that_all_differ_are_not_told_without_end():
    lines = [f"{'x' * length} images" for length in range(1, 1001)]

    # Twenty lines of kinds of their own, and twenty of all others.
    assert shorten_remarks(lines) == [
        *lines[:40],
        "... and 960 more like these, in remarks.txt",
    ]

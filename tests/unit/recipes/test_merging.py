"""Overrides and presets in raw recipes."""

import pytest

from distildet.errors import ConfigError
from distildet.recipes.merging import apply_override, merge_preset, parse_override


@pytest.mark.parametrize(
    ("text", "steps", "value"),
    [
        ("name=a", ["name"], "a"),
        ("a.b=c", ["a", "b"], "c"),
        ("stages[1].epochs=3", ["stages", 1, "epochs"], "3"),
        ("a[0][12]=", ["a", 0, 12], ""),
        ("threshold.12:30=0.5", ["threshold", "12:30"], "0.5"),
        ("threshold['a.b']=0.5", ["threshold", "a.b"], "0.5"),
        ("a=b=c", ["a"], "b=c"),
    ],
)
def test_an_override_is_a_path_and_a_value(text, steps, value):
    assert parse_override(text) == (steps, value)


@pytest.mark.parametrize(
    "text",
    ["", "a", "=3", ".a=3", "a.=3", "a..b=3", "a[=3", "a[x]=3", "a[-1]=3", "a[0]b=3", "a['']=3"],
)
def test_what_is_no_override_is_refused(text):
    with pytest.raises(ConfigError, match=r"this is no override\. Accepted: a path, ="):
        parse_override(text)


@pytest.mark.parametrize(
    ("steps", "result"),
    [
        (["a"], {"a": "new", "b": [{"c": "2"}, "3"]}),
        (["b", 0, "c"], {"a": "1", "b": [{"c": "new"}, "3"]}),
        (["b", 1], {"a": "1", "b": [{"c": "2"}, "new"]}),
        (["d", "e"], {"a": "1", "b": [{"c": "2"}, "3"], "d": {"e": "new"}}),
    ],
)
def test_an_override_sets_the_value_at_its_path(steps, result):
    raw = {"a": "1", "b": [{"c": "2"}, "3"]}

    apply_override(raw, steps, "new")

    assert raw == result


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["a", "x"], r"--set a\.x: a is '1', not a mapping"),
        (["b", "x"], r"--set b\.x: b is \['2'\], not a mapping"),
        (["a", 0], r"--set a\[0\]: a is not a list"),
        ([0], r"--set \[0\]: the recipe is not a list"),
        (["b", 1], r"--set b\[1\]: b has 1 entries, counted from 0\. Accepted: the index"),
        (["b", 1, "x"], r"--set b\[1\]: b has 1 entries"),
        (["c", 0], r"--set c\[0\]: c is not a list"),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(steps, message):
    raw = {"a": "1", "b": ["2"]}

    with pytest.raises(ConfigError, match=message):
        apply_override(raw, steps, "new")


def test_a_preset_fills_in_at_every_depth_what_is_not_given():
    raw = {"data": {"labeled": {}}, "student": {"options": {"a": "1"}}}

    student = {"options": {"a": "2", "b": "3"}}
    merge_preset(raw, {"stages": [{"stage": "train"}], "student": student, "seeds": ["4"]})

    assert raw["student"] == {"options": {"a": "1", "b": "3"}}
    assert raw["seeds"] == ["4"]


def test_given_stages_replace_those_of_the_preset():
    raw = {"stages": [{"stage": "train"}]}

    merge_preset(raw, {"stages": [{"stage": "label"}, {"stage": "train"}]})

    assert raw["stages"] == [{"stage": "train"}]


COCO = {"format": "coco"}


@pytest.mark.parametrize(
    ("data", "epochs"),
    [
        ({"labeled": COCO, "unlabeled": [COCO]}, ["1", "2"]),
        ({"labeled": COCO}, ["1", "3"]),
        ({"labeled": COCO, "unlabeled": []}, ["1", "3"]),
        ({"labeled": "null", "unlabeled": [COCO]}, ["1"]),
        ({}, ["1"]),
        ("no mapping", ["1"]),
    ],
)
def test_stages_are_left_out_where_their_images_are_not_as_they_say(data, epochs):
    raw = {"data": data}
    stages = [
        {"epochs": "1"},
        {"epochs": "2", "when": {"labeled": "true", "unlabeled": "true"}},
        {"epochs": "3", "when": {"labeled": "true", "unlabeled": "false"}},
    ]

    merge_preset(raw, {"stages": stages})

    assert raw["stages"] == [{"epochs": number} for number in epochs]


def test_a_preset_without_images_is_refused_by_what_is_missing():
    stages = [{"epochs": "1", "when": {"labeled": "true", "unlabeled": "false"}}]

    with pytest.raises(ConfigError, match=r"^data: found neither .* Give data\.labeled, data\.unl"):
        merge_preset({"data": {"validation": COCO}}, {"stages": stages})

"""Oracles: messages and weights by hand."""

import pytest

from distildet.errors import ConfigError


def test_backbone_and_neck_are_asked_for_unless_groups_or_levels_are_named(options_of):
    assert options_of().asked == ("backbone", "neck")
    assert options_of(correspondence={"P3": "P3"}).asked == ("backbone", "neck", "head")
    assert options_of(groups=("head", "neck")).asked == ("head", "neck")


def test_a_group_has_the_weight_of_its_own_option(options_of):
    every = ("backbone", "neck", "head")
    options = options_of(groups=every, backbone_weight=0.25, neck_weight=2.0, head_weight=0.0)

    assert [options.weight(group) for group in options.asked] == [0.25, 2.0, 0.0]


def test_details_have_defaults_and_may_be_given(options_of):
    assert [options_of().value(name) for name in ("attention", "macro_temperature")] == [2.0, 1.0]
    assert options_of(attention=0.0).value("attention") == 0.0


@pytest.mark.parametrize(
    ("off", "switch", "name"),
    [
        ({"measure": "squared"}, "measure: squared", "direction"),
        ({"micro": False}, "micro: false", "background"),
        ({"micro": False}, "micro: false", "attention"),
        ({"micro": False}, "micro: false", "hardness"),
        ({"macro": False}, "macro: false", "macro_temperature"),
        ({"correspondence": "order"}, "correspondence: order", "stride_penalty"),
        ({"correspondence": {"P3": "P4"}}, "correspondence: pairs by hand", "stride_penalty"),
    ],
)
def test_an_option_without_effect_is_refused(options_of, off, switch, name):
    message = rf"^{name}: found 0\.5, without effect with {switch}\. Leave one out\.$"

    with pytest.raises(ConfigError, match=message):
        options_of(**off, **{name: 0.5})


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": ("neck", "backbone"), "backbone_weight": 0.0},
        {"correspondence": {"P3": "P4"}},
        {"correspondence": "order"},
        {"measure": "squared", "release": 0.999, "images": 1},
        dict.fromkeys(("stride_penalty", "direction", "background", "attention", "hardness"), 0.0),
    ],
)
def test_options_at_the_ends_of_their_ranges_are_taken(options_of, changes):
    options = options_of(**changes)

    assert {name: getattr(options, name) for name in changes} == changes


NOT_BELOW_0 = (
    "stride_penalty",
    "direction",
    "background",
    "attention",
    "hardness",
    "backbone_weight",
    "neck_weight",
    "head_weight",
)


@pytest.mark.parametrize("name", NOT_BELOW_0)
@pytest.mark.parametrize("number", [-0.5, float("nan"), float("inf")])
def test_factors_are_finite_and_not_below_0(options_of, name, number):
    message = rf"^{name}: found {number}\. Accepted: a finite number of 0 or more\.$"

    with pytest.raises(ConfigError, match=message):
        options_of(groups=("backbone", "neck", "head"), **{name: number})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"measure": "square"}, r"^measure: found 'square'\. Accepted: hands-on, squared\. Did"),
        ({"groups": ("nek",)}, r"^groups: found 'nek'\. Accepted: backbone, head, neck\. Did you"),
        ({"groups": ()}, r"^groups: found \[\]\. Accepted: different ones of backbone, neck, head"),
        ({"groups": ("neck", "neck")}, r"^groups: found \['neck', 'neck'\]\. Accepted: different"),
        (
            {"correspondence": "index"},
            r"^correspondence: found 'index'\. Accepted: affinity or order, or a level .*P3: P4",
        ),
        ({"correspondence": {}}, r"^correspondence: found no level\. Accepted: a level of the "),
        ({"images": 0}, r"^images: found 0\. Accepted: 1 or more\.$"),
        ({"release": 1.0}, r"^release: found 1\.0\. Accepted: a number from 0 to below 1\.$"),
        ({"release": -0.1}, r"^release: found -0\.1\. Accepted: a number from 0 to below 1\.$"),
        ({"release": float("nan")}, r"^release: found nan\. Accepted: a number from 0 to below"),
        (
            {"macro_temperature": 0.0},
            r"^macro_temperature: found 0\.0\. Accepted: a finite number of 0\.001 or more\.$",
        ),
        ({"macro_temperature": float("inf")}, r"^macro_temperature: found inf\. Accepted: a fini"),
        (
            {"groups": ("neck",), "neck_weight": 0.0},
            r"^neck_weight: found 0, which compares nothing\. At least one must be above 0\.$",
        ),
        (
            {"backbone_weight": 0.0, "neck_weight": 0.0},
            r"^backbone_weight, neck_weight: found 0, which compares nothing\.",
        ),
    ],
)
def test_options_without_a_meaning_are_refused(options_of, changes, message):
    with pytest.raises(ConfigError, match=message):
        options_of(**changes)


def test_all_faults_are_told_at_once(options_of):
    with pytest.raises(ConfigError) as error:
        options_of(measure="mine", groups=(), correspondence={}, release=2.0, direction=-1.0)

    names = [line.split(":")[0] for line in str(error.value).splitlines()]
    assert names == ["measure", "groups", "correspondence", "direction", "release"]


@pytest.mark.parametrize(
    ("changes", "compared", "message"),
    [
        (
            {"head_weight": 0.5},
            ["backbone", "neck"],
            r"^head_weight: found 0\.5, without effect: head is not compared, but backbone, neck\.",
        ),
        (
            {"neck_weight": 7.0},
            ["neck"],
            r"^neck_weight: found 7\.0, without effect: neck is the only group that is compared",
        ),
        (
            {"groups": ("backbone", "neck"), "correspondence": {"P3": "P3"}},
            ["neck"],
            r"^groups: found backbone, of which no level is in `correspondence`\. Take it out",
        ),
    ],
)
def test_what_changes_nothing_for_a_pair_is_refused(options_of, changes, compared, message):
    with pytest.raises(ConfigError, match=message):
        options_of(**changes).refuse_idle(compared)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backbone_weight": 0.25},
        {"head_weight": 0.0},
        {"groups": ("backbone", "neck", "head"), "head_weight": 0.0},
    ],
)
def test_what_has_an_effect_is_taken(options_of, changes):
    options_of(**changes).refuse_idle(["backbone", "neck"])

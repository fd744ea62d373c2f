"""Options typed by the signature of a constructor."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from distildet.recipes.options import typed_options


class Detector:
    def __init__(
        self,
        classes,
        *,
        number: float = 0.5,
        count: int = 1,
        is_on: bool = False,
        text: str = "",
        weights: bool | Path = True,
        limit: int | None = None,
        mode: Literal["fast", "exact"] = "fast",
        either: float | Literal["auto"] = "auto",
        pairs: Literal["order"] | Mapping[str, str] = "order",
        scales: tuple[float, ...] = (),
        pair: tuple[int, str] = (0, ""),
        levels: Sequence[int] = (),
        by_name: Mapping[str, float] | None = None,
        anything: Any = None,
        unannotated=None,
    ):
        pass


PARAMETERS = inspect.signature(Detector).parameters


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("number", "1e-4", 1e-4),
        ("number", "3", 3.0),
        ("count", "96", 96),
        ("is_on", "true", True),
        ("is_on", "false", False),
        ("text", "no", "no"),
        ("text", "1e-4", "1e-4"),
        ("weights", "false", False),
        ("weights", "w.pth", Path("w.pth")),
        ("limit", "null", None),
        ("limit", "7", 7),
        ("mode", "exact", "exact"),
        ("either", "auto", "auto"),
        ("either", "0.1", 0.1),
        ("scales", ["0.5", "1", "2e0"], (0.5, 1.0, 2.0)),
        ("pair", ["1", "1"], (1, "1")),
        ("levels", ["3", "4"], [3, 4]),
        ("by_name", {"no": "0.5"}, {"no": 0.5}),
        ("by_name", "~", None),
        ("anything", ["1"], ["1"]),
        ("unannotated", "1", "1"),
    ],
)
def test_texts_become_the_type_of_the_parameter(name, raw, value):
    options, faults = typed_options({name: raw}, PARAMETERS)

    assert faults == []
    assert options == {name: value}
    assert type(options[name]) is type(value)


@pytest.mark.parametrize(
    ("name", "raw", "fault"),
    [
        ("number", "nan", "number: found 'nan'. Accepted: a finite number."),
        ("number", "1e999", "number: found '1e999'. Accepted: a finite number."),
        ("count", "3_2", "count: found '3_2'. Accepted: a whole number."),
        ("count", "1.0", "count: found '1.0'. Accepted: a whole number."),
        ("is_on", "yes", "is_on: found 'yes'. Accepted: true or false."),
        ("limit", "x", "limit: found 'x'. Accepted: a whole number."),
        ("pairs", ["P3"], "pairs: found ['P3']. Accepted: 'order' or a mapping."),
        (
            "pairs",
            "ordre",
            "pairs: found 'ordre'. Accepted: 'order' or a mapping. Did you mean 'order'?",
        ),
        ("pairs", "x", "pairs: found 'x'. Accepted: 'order' or a mapping."),
        # What is wrong inside of a mapping, not that it is no word.
        ("pairs", {"P3": ["P4"]}, "pairs.P3: found ['P4']. Accepted: a text."),
        (
            "mode",
            "fsat",
            "mode: found 'fsat'. Accepted: exact, fast. Did you mean 'fast'?",
        ),
        ("either", "x", "either: found 'x'. Accepted: a finite number or 'auto'."),
        ("scales", ["1", "x"], "scales[1]: found 'x'. Accepted: a finite number."),
        ("scales", "1", "scales: found '1'. Accepted: a list."),
        ("pair", ["1"], "pair[1]: missing. It is required."),
        ("by_name", {"a b": "x"}, "by_name['a b']: found 'x'. Accepted: a finite number."),
        ("text", ["a"], "text: found ['a']. Accepted: a text."),
    ],
)
def test_a_value_of_another_type_is_a_fault(name, raw, fault):
    options, faults = typed_options({name: raw}, PARAMETERS)

    assert options == {}
    assert faults == [fault]


def test_unknown_and_positional_names_are_faults_with_the_nearest_name():
    _, faults = typed_options({"cuont": "1", "classes": "x"}, PARAMETERS)

    assert len(faults) == 2
    assert faults[0].startswith("cuont: unknown option. Accepted: anything, by_name, count,")
    assert faults[0].endswith("Did you mean 'count'?")
    assert faults[1].startswith("classes: unknown option.")


def test_an_option_without_a_default_is_required():
    def build(*, backbone: str, depth: int = 4):
        pass

    _, faults = typed_options({"depth": "x"}, inspect.signature(build).parameters)

    assert faults == [
        "backbone: missing. This option has no default.",
        "depth: found 'x'. Accepted: a whole number.",
    ]


def test_a_key_of_a_stage_is_told_to_be_one():
    faults = typed_options({"batch_norm": "frozen"}, PARAMETERS)[1]

    assert len(faults) == 1
    assert faults[0].startswith("batch_norm: unknown option. Accepted: anything, ")
    assert faults[0].endswith(" unannotated, weights. batch_norm is a key of a train stage.")

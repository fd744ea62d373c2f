import json
from pathlib import Path

import pytest

from distildet.training.settings import TermSettings, TrainSettings


def settings(**changes):
    return TrainSettings(**{"seed": 0, "stage": "s", "steps": 10, **changes})


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(8, 4, {2, 4, 6, 8}), (10, 3, {3, 7, 10}), (10, 1, {10}), (10, 0, set())],
)
def test_evaluations_are_spread_evenly_and_end_the_stage(steps, evaluations, expected):
    assert settings(steps=steps, evaluations=evaluations).evaluation_steps() == expected


def test_settings_that_went_through_json_have_not_changed():
    term = TermSettings(loss="a", options={"levels": ("P3",), "file": Path("b")})
    distilling = settings(terms=(term,))

    assert distilling.changes_from(json.loads(json.dumps(distilling.as_json()))) == []


def test_another_option_of_a_loss_is_a_change():
    old = settings(terms=(TermSettings(loss="a", weight="auto"),)).as_json()

    (change,) = settings(terms=(TermSettings(loss="a", weight=2.0),)).changes_from(old)

    assert change.startswith("terms was [{'loss': 'a', 'weight': 'auto'")


def test_changes_name_the_old_and_the_new_value_also_of_settings_that_went():
    old = settings(lr=0.1).as_json() | {"gone": 1}

    changes = settings(lr=0.2).changes_from(old)

    assert changes == ["gone was 1 and is None", "lr was 0.1 and is 0.2"]


@pytest.mark.parametrize(
    ("now", "changes"),
    [
        ({}, []),
        ({"precision": "bf16"}, ["precision was 'fp32' and is 'bf16'"]),
        ({"clip": 5.0}, ["clip was 10.0 and is 5.0"]),
    ],
)
def test_a_stage_begun_before_there_was_a_choice_had_the_default(now, changes):
    old = settings().as_json()
    del old["precision"]
    del old["clip"]

    assert settings(**now).changes_from(old) == changes


def test_a_term_begun_before_there_was_a_choice_had_the_default():
    now = settings(terms=(TermSettings(loss="a", weight=2.0),))
    old = now.as_json()
    del old["terms"][0]["decay"]

    assert now.changes_from(old) == []

"""Faults of a source by kind, and of several sources together."""

from pathlib import Path

import pytest

from distildet.data.faults import Faults, raise_together
from distildet.errors import DataError


def test_no_faults_raise_nothing():
    Faults(Path("a.json")).raise_if_any()
    raise_together({})


def test_each_kind_is_told_with_its_count_and_five_records():
    faults = Faults(Path("a.json"))
    [faults.add("ids must be unique", str(i)) for i in range(7)]
    faults.add("names must be texts", "3")

    with pytest.raises(DataError) as caught:
        faults.raise_if_any()

    assert str(caught.value) == (
        "a.json: ids must be unique (7): 0; 1; 2; 3; 4 ...\n  names must be texts (1): 3"
    )


def test_errors_of_several_sources_stand_after_their_places():
    errors = {"data.labeled": DataError("a.json: empty"), "data.validation": DataError("b: gone")}

    with pytest.raises(DataError) as caught:
        raise_together(errors)

    assert str(caught.value) == "data.labeled: a.json: empty\ndata.validation: b: gone"
    assert caught.value.__cause__ is errors["data.labeled"]

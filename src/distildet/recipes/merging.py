"""Puts a preset under a raw recipe, and overrides such as `stages[1].epochs=3` into it."""

import re
from collections.abc import Sequence
from typing import Any

from distildet.errors import ConfigError
from distildet.recipes.faults import join_path, shown
from distildet.recipes.values import read_none

_STEP = re.compile(r"\['(?P<quoted>[^']+)'\]|\[(?P<index>[0-9]{1,9})\]|(?P<key>[^.\[\]]+)")


def parse_override(text: str) -> tuple[list[str | int], str]:
    """Split an override into the steps of its path and the text of its value.

    Args:
        text: Such as `stages[1].epochs=3`; a key with dots or brackets is written `['a.b']`.

    Raises:
        ConfigError: There is no `=`, or what stands before it is no path.
    """
    path, equals, value = text.partition("=")
    steps: list[str | int] = []
    position = 0
    while position < len(path):
        start = position + 1 if steps and path[position] == "." else position
        match = _STEP.match(path, start)
        needs_dot = match is not None and match["key"] is not None and bool(steps)
        if match is None or (start > position) != needs_dot:
            break
        index = match["index"]
        steps.append(int(index) if index else match["quoted"] or match["key"])
        position = match.end()
    if not equals or not steps or position < len(path):
        raise ConfigError(
            f"--set {text!r}: this is no override. Accepted: a path, =, and a value, "
            "such as stages[1].optimizer.lr=1e-3."
        )
    return steps, value


def apply_override(raw: dict[str, Any], steps: Sequence[str | int], value: Any) -> None:
    """Set a value inside a raw recipe, in place; mappings on the way are made where missing.

    Args:
        raw: The recipe as mappings, lists and texts.
        steps: Keys of mappings and indices of lists.
        value: What is set.

    Raises:
        ConfigError: The path goes through a text, or to an entry that a list does not have.
    """
    here: Any = raw
    where = ""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        _check_step(here, step, where)
        where = join_path(where, step)
        if following is None:
            here[step] = value
        elif isinstance(step, int):
            here = here[step]
        else:
            here = here.setdefault(step, {})


def _check_step(here: Any, step: str | int, where: str) -> None:
    place = join_path(where, step)
    if isinstance(step, str):
        if not isinstance(here, dict):
            raise ConfigError(f"--set {place}: {where} is {shown(here)}, not a mapping.")
    elif not isinstance(here, list):
        raise ConfigError(f"--set {place}: {where or 'the recipe'} is not a list.")
    elif step >= len(here):
        raise ConfigError(
            f"--set {place}: {where} has {len(here)} entries, counted from 0. "
            "Accepted: the index of one of them."
        )


def merge_preset(raw: dict[str, Any], preset: dict[str, Any]) -> None:
    """Add to a raw recipe, in place, what a preset has and the recipe does not give.

    Args:
        raw: The recipe as mappings, lists and texts; what it gives stays, its lists as a whole.
        preset: Its stages may have a key `when` such as {labeled: true, unlabeled: false}: they
            are left out where the recipe has, or lacks, other images than these. It is not used
            afterwards.

    Raises:
        ConfigError: No stage is left, since the recipe has no images.
    """
    data = raw.get("data")
    streams = data if isinstance(data, dict) else {}
    is_present = {
        stream: bool(read_none(streams.get(stream))) for stream in ("labeled", "unlabeled")
    }
    stages = [
        stage
        for stage in preset["stages"]
        if all(is_present[name] == (due == "true") for name, due in stage.pop("when", {}).items())
    ]
    if not stages and "stages" not in raw:
        raise ConfigError(
            "data: found neither labeled nor unlabeled images, of which the preset needs one kind "
            "at least. Give data.labeled, data.unlabeled or both."
        )
    _merge_under(raw, {**preset, "stages": stages})


def _merge_under(mapping: dict[str, Any], defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        own = mapping.setdefault(key, value)
        if isinstance(own, dict) and isinstance(value, dict):
            _merge_under(own, value)

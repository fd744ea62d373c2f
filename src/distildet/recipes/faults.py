"""Turns what pydantic found wrong into messages: where, what was found, what is accepted.

A custom error of the schema says what is accepted; one of type "complete" is the whole sentence.
"""

import re
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from distildet.errors import nearest_name, nearest_names
from distildet.recipes.stage_keys import accepted_keys

_SHAPES = {
    "dict_type": "a mapping",
    "list_type": "a list",
    "model_attributes_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "a text",
    "tuple_type": "a list",
    "too_long": "at most {max_length} entries",
}
_TAGS_BY_KEY = {"stage": "label, train", "layout": "boxes, detections, grid"}
_TAG_KEYS = (*_TAGS_BY_KEY, "detector")
_QUOTED = re.compile(r"'([^']*)'")
_PLAIN_KEY = re.compile(r"[\w:/-]+")
_SHOWN_CHARACTERS = 80


def join_path(where: str, component: str | int) -> str:
    """Return the recipe path of an entry of a mapping or a list, such as `stages[1].epochs`."""
    if isinstance(component, int):
        return f"{where}[{component}]"
    if not _PLAIN_KEY.fullmatch(component):
        return f"{where}[{component!r}]"
    return f"{where}.{component}" if where else component


def shown(value: Any) -> str:
    """Return a value as it reads in a message, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _steps(error: ErrorDetails, raw: Any) -> list[str | int]:
    """Return the location of an error in the raw value, without pydantic's tags of unions."""
    steps: list[str | int] = []
    here: Any = raw
    for step in error["loc"]:
        in_list = isinstance(here, list) and isinstance(step, int) and step < len(here)
        if in_list or (isinstance(here, dict) and step in here):
            here = here[step]
            steps.append(step)
    is_about_a_missing_key = error["type"] in {"missing", "complete"} and len(error["loc"]) > 0
    if is_about_a_missing_key and steps[-1:] != [error["loc"][-1]]:
        steps.append(error["loc"][-1])
    return steps


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for member in get_args(annotation) for model in _models_in(member)]


def _tags_of(model: type[BaseModel]) -> set[Any]:
    """Return what pydantic's location of a fault calls a member of a union."""
    fields = [model.model_fields[key] for key in _TAG_KEYS if key in model.model_fields]
    words = {word for field in fields for word in get_args(field.annotation)}
    return words | {getattr(model, "TAG", None)}


def _accepted_keys(model: type[BaseModel], loc: Sequence[str | int]) -> set[str]:
    """Return the keys that the section around an unknown key takes."""
    models = [model]
    for step in loc[:-1]:
        fields = [m.model_fields[step] for m in models if step in m.model_fields]
        if fields:
            models = [inner for field in fields for inner in _models_in(field.annotation)]
            continue
        tagged = [m for m in models if step in _tags_of(m)]
        models = tagged or models
    return {name for m in models for name in m.model_fields}


def _accepted(error: ErrorDetails) -> str:
    """Return what would have been right, as a phrase."""
    if error["type"] in _SHAPES:
        return _SHAPES[error["type"]].format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Input should be ")


def _names(found: Any, expected: str) -> str:
    """Return pydantic's listing of quoted names as ours, with the nearest one."""
    return nearest_names(found if isinstance(found, str) else "", _QUOTED.findall(expected))


def _message(error: ErrorDetails, where: str, model: type[BaseModel] | None) -> str:
    context, found = error.get("ctx", {}), error["input"]
    match error["type"]:
        case "missing":
            text = "missing. It is required."
        case "complete":
            text = error["msg"]
        case "extra_forbidden":
            keys = _accepted_keys(model, error["loc"]) if model else ()
            text = f"unknown key. {accepted_keys(str(error['loc'][-1]), keys)}"
        case "literal_error":
            text = f"found {shown(found)}. {_names(found, context['expected'])}"
        case "union_tag_not_found":
            key = context["discriminator"].strip("'")
            return f"{join_path(where, key)}: missing. Accepted: {_TAGS_BY_KEY[key]}."
        case "union_tag_invalid":
            tags = _names(context["tag"], context["expected_tags"])
            key = context["discriminator"].strip("'")
            return f"{join_path(where, key)}: found {shown(context['tag'])}. {tags}"
        case _:
            text = f"found {shown(found)}. Accepted: {_accepted(error)}."
    return f"{where}: {text}"


def describe(
    error: ValidationError, raw: Any, *, where: str = "", model: type[BaseModel] | None = None
) -> list[str]:
    """Return one message for each fault that pydantic found.

    Args:
        error: What pydantic raised.
        raw: The value it was given: mappings, lists and texts.
        where: Recipe path of that value.
        model: What the value was validated as, to name the accepted keys.
    """
    by_path: dict[str, list[ErrorDetails]] = {}
    for fault in error.errors(include_url=False):
        if fault["type"] == "default_factory_not_called":
            continue  # follows from the faults of the keys before it
        path = where
        for step in _steps(fault, raw):
            path = join_path(path, step)
        by_path.setdefault(path, []).append(fault)
    messages = []
    for path, faults in by_path.items():
        if _is_of_another_kind(faults) and any(_is_inside(path, other) for other in by_path):
            continue  # one of a union's members takes such a value, and says what is wrong in it
        if len(faults) == 1:
            messages.append(_message(faults[0], path, model))
            continue
        # Several faults of one value are the members of a union, each of which refused it.
        phrase = " or ".join(dict.fromkeys(_accepted(fault) for fault in faults))
        found = faults[0]["input"]
        near = nearest_name(found, _words(faults)) if isinstance(found, str) else ""
        messages.append(f"{path}: found {shown(found)}. Accepted: {phrase}.{near}")
    return messages


def _words(faults: Sequence[ErrorDetails]) -> list[str]:
    """Return the words that members of a union take."""
    literals = (fault for fault in faults if fault["type"] == "literal_error")
    return [word for fault in literals for word in _QUOTED.findall(fault["ctx"]["expected"])]


def _is_of_another_kind(faults: Sequence[ErrorDetails]) -> bool:
    """Return whether a mapping or a list was refused for not being one of some words."""
    return all(
        fault["type"] == "literal_error" and isinstance(fault["input"], dict | list)
        for fault in faults
    )


def _is_inside(path: str, other: str) -> bool:
    return other.startswith((f"{path}.", f"{path}["))

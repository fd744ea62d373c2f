"""Types the raw options of a recipe entry by the signature of the class that will get them."""

import functools
import inspect
import operator
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Field, TypeAdapter, ValidationError

from distildet.recipes.faults import describe
from distildet.recipes.stage_keys import accepted_keys
from distildet.recipes.values import Boolean, Integer, NonePossible, Number, RecipePath

_SCALARS: dict[Any, Any] = {int: Integer, float: Number, bool: Boolean, Path: RecipePath}
_CONTAINERS = (tuple, list, dict, frozenset, Sequence, Mapping)
# A text or a path takes every scalar, so these are tried last; a number takes every integer.
_ORDER = (bool, int, float, Literal, Path, str)


def _rank(annotation: Any) -> int:
    kind = Literal if get_origin(annotation) is Literal else annotation
    return _ORDER.index(kind) if kind in _ORDER else _ORDER.index(Literal)


def _recipe_type(annotation: Any) -> Any:
    """Return the type that reads recipe strings as values of a constructor's type."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _recipe_union(arguments)
    if origin not in _CONTAINERS:
        return _SCALARS.get(annotation, annotation)
    members = tuple(a if a is Ellipsis else _recipe_type(a) for a in arguments)
    return types.GenericAlias(origin, members)


def _recipe_union(arguments: tuple[Any, ...]) -> Any:
    given = sorted((a for a in arguments if a is not types.NoneType), key=_rank)
    union = functools.reduce(operator.or_, map(_recipe_type, given))
    if len(given) > 1:
        union = Annotated[union, Field(union_mode="left_to_right")]
    return union if len(given) == len(arguments) else Annotated[union | None, NonePossible]


def typed_options(
    raw: Mapping[str, Any], signature_parameters: Mapping[str, inspect.Parameter]
) -> tuple[dict[str, Any], list[str]]:
    """Convert raw options to the types of a constructor's keyword-only parameters.

    Args:
        raw: Option name -> text, list or mapping, as the recipe file has it.
        signature_parameters: `inspect.signature(cls).parameters`, less those that the caller
            gives by itself. Parameters that are not keyword-only are passed over.

    Returns:
        The typed options, and one message for each option that is unknown, missing or of the
        wrong type (with the option's name first, so that a recipe path can be put before it).
    """
    accepted = {
        name: parameter
        for name, parameter in signature_parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    typed: dict[str, Any] = {}
    faults = [
        f"{name}: missing. This option has no default."
        for name, parameter in accepted.items()
        if parameter.default is parameter.empty and name not in raw
    ]
    for name, value in raw.items():
        if name not in accepted:
            faults.append(f"{name}: unknown option. {accepted_keys(name, accepted)}")
            continue
        annotation = accepted[name].annotation
        adapter: TypeAdapter[Any] = TypeAdapter(
            Any if annotation is inspect.Parameter.empty else _recipe_type(annotation)
        )
        try:
            typed[name] = adapter.validate_python(value)
        except ValidationError as error:
            faults.extend(describe(error, value, where=name))
    return typed, faults

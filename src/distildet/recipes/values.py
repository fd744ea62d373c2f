"""Building blocks of the schema: how texts of a recipe become numbers, booleans and paths."""

import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

NONE_WORDS = frozenset({"null", "none", "~"})
FOLDER_KEY = "folder"
INIT_WORDS = ("previous", "pretrained", "teacher")

_INTEGER = re.compile(r"[+-]?[0-9]{1,300}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_BOOLEANS = {"true": True, "false": False}


class Section(BaseModel):
    """A mapping of the recipe: its keys are known and its values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def complete_fault(message: str) -> PydanticCustomError:
    """Return an error whose message is a whole sentence; braces in it are kept as they are."""
    return PydanticCustomError("complete", "{message}", {"message": message})


def _read_integer(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    raise PydanticCustomError("integer", "a whole number")


def _read_number(value: Any) -> Any:
    number = value
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        number = float(value)
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if not is_number or not math.isfinite(number):
        raise PydanticCustomError("number", "a finite number")
    return number


def _read_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value in _BOOLEANS:
        return _BOOLEANS[value]
    raise PydanticCustomError("boolean", "true or false")


def is_number_like(value: Any) -> bool:
    """Tell whether a value is a number, or a text that reads as one."""
    return isinstance(value, int | float) or (
        isinstance(value, str) and _NUMBER.fullmatch(value) is not None
    )


def read_none(value: Any) -> Any:
    """Turn the words for nothing into None; used only where None is a legal value."""
    return None if isinstance(value, str) and value.lower() in NONE_WORDS else value


def _read_path(value: Any) -> Any:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise PydanticCustomError("path", "a path")
    return value


def _resolve(path: Path, info: ValidationInfo) -> Path:
    folder: Path | None = (info.context or {}).get(FOLDER_KEY)
    if folder is None:
        return path
    resolved = folder / path
    # `link/..` is not the folder of the link: only the file system knows what it is.
    return Path(os.path.realpath(resolved)) if ".." in resolved.parts else resolved


def _check_not_empty(value: Any) -> Any:
    # A minimal length of pydantic counts only the sound entries, and so reports faulty ones twice.
    if not value:
        raise PydanticCustomError("empty", "at least one entry")
    return value


def _kind_of_threshold(value: Any) -> str | None:
    if isinstance(value, dict):
        return "mapping"
    if value == "auto":
        return "auto"
    return "number" if is_number_like(value) else None


def _kind_of_pretrained(value: Any) -> str:
    is_flag = isinstance(value, bool) or (isinstance(value, str) and value in _BOOLEANS)
    return "flag" if is_flag else "path"


def _kind_of_init(value: Any) -> str:
    return "word" if value in INIT_WORDS else "path"


Integer = Annotated[int, BeforeValidator(_read_integer), Strict()]
Number = Annotated[float, BeforeValidator(_read_number), Strict()]
Boolean = Annotated[bool, BeforeValidator(_read_boolean), Strict()]
NonePossible = BeforeValidator(read_none)
NotEmpty = AfterValidator(_check_not_empty)
Share = Annotated[Number, Field(ge=0, le=1)]
RecipePath = Annotated[Path, AfterValidator(_resolve), BeforeValidator(_read_path)]
"""A path; with a folder in the validation context, relative paths are joined to it."""

OptionalPath = Annotated[RecipePath | None, NonePossible]

Threshold = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[Share, Tag("number")]
    | Annotated[dict[str, Share], Tag("mapping")],
    Discriminator(
        _kind_of_threshold,
        custom_error_type="threshold",
        custom_error_message="auto, a number 0..1, or a mapping from class names to such numbers",
    ),
]
Pretrained = Annotated[
    Annotated[Boolean, Tag("flag")] | Annotated[RecipePath, Tag("path")],
    Discriminator(_kind_of_pretrained),
]
Init = Annotated[
    Annotated[Literal["previous", "pretrained", "teacher"], Tag("word")]
    | Annotated[RecipePath, Tag("path")],
    Discriminator(_kind_of_init),
]

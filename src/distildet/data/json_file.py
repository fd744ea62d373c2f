"""Reads JSON that comes from outside: what the standard reader passes silently is refused."""

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from distildet.data.names import require_regular_file
from distildet.data.unfetched import describe_unfetched
from distildet.errors import DataError

_NUM_SHOWN = 6
# Texts, those before a colon being keys, ends of objects, and words that only Python reads.
_TOKEN = re.compile(r'("(?:[^"\\]|\\.)*+")(\s*:)?|[{}]|NaN|-?Infinity', re.DOTALL)


class _RefusedError(ValueError):
    """The JSON reader passes this, but it is not what it seems."""


def read_json(path: Path) -> Any:
    """Read a JSON file.

    A byte order mark is passed over. Duplicate keys are refused since all but the last would be
    lost; NaN and Infinity are refused since they are not JSON.

    Raises:
        DataError: It is no file or cannot be read, is not UTF-8, or is not JSON; the message has
            the line.
    """
    text = _read_text(path)
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}). "
            "Repair the file or write it again; it may be cut off."
        ) from error
    except _RefusedError as error:
        raise DataError(f"{path}: line {_line_of_refused(text)}: {error}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise DataError(f"{path}: {error}") from error
    except RecursionError as error:
        raise DataError(
            f"{path}: lists or objects are nested too deeply to be annotations."
        ) from error


def _read_text(path: Path) -> str:
    try:
        require_regular_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read ({error.strerror}). Give the path of a JSON file."
        ) from error
    unfetched = describe_unfetched(content, "JSON")
    if unfetched is not None:
        raise DataError(f"{path}: {unfetched}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 text. Save the file as UTF-8."
        ) from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in record if keys.count(key) > 1)
        # With values, since by its keys alone no record of many equal ones is found.
        shown = ", ".join(f"{key!r}: {value!r:.40}" for key, value in pairs[:_NUM_SHOWN])
        raise _RefusedError(
            f"key {double!r} occurs {keys.count(double)} times in one object, which has {shown}. "
            "Keys must be unique: remove all but one."
        )
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(
        f"the value {name} is not JSON. Numbers must be finite: replace or remove the record."
    )


def _line_of_refused(text: str) -> int:
    """Return the line of what a hook has refused first, from 1: the hooks do not know the place.

    Args:
        text: JSON up to that place. As for the reader, an object is looked at when it ends.
    """
    offsets_by_key: list[dict[str, list[int]]] = []  # of each object that is open
    place = 0
    for token in _TOKEN.finditer(text):
        place = token.start()
        if token[0] == "{":
            offsets_by_key.append({})
        elif token[0] == "}":
            repeated = [offsets[1] for offsets in offsets_by_key.pop().values() if offsets[1:]]
            if repeated:
                place = repeated[0]
                break
        elif token[2]:
            offsets_by_key[-1].setdefault(json.loads(token[1]), []).append(place)
        elif not token[1]:
            break
    return text.count("\n", 0, place) + 1

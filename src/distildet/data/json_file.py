"""Reads JSON that comes from outside: what the standard reader passes silently is refused."""

import json
from pathlib import Path
from typing import Any, NoReturn

from distildet.errors import DataError

_NUM_SHOWN = 6


def read_json(path: Path) -> Any:
    """Read a JSON file.

    A byte order mark is passed over. Duplicate keys are refused since all but the last would be
    lost; NaN and Infinity are refused since they are not JSON.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or is not JSON; the message has line and
            column where the reader knows them.
    """
    try:
        return json.loads(
            path.read_bytes().decode("utf-8-sig"),
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
        )
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read ({error.strerror}). Give the path of a JSON file."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 text. Save the file as UTF-8."
        ) from error
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}: line {error.lineno}, column {error.colno}: not JSON ({error.msg}). "
            "Repair the file or write it again; it may be cut off."
        ) from error
    except ValueError as error:  # from the hooks below, or an integer of thousands of digits
        raise DataError(f"{path}: {error}") from error
    except RecursionError as error:
        raise DataError(
            f"{path}: lists or objects are nested too deeply to be annotations."
        ) from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        double = next(key for key in record if keys.count(key) > 1)
        # With values, since by its keys alone no record of many equal ones is found.
        shown = ", ".join(f"{key!r}: {value!r:.40}" for key, value in pairs[:_NUM_SHOWN])
        raise ValueError(
            f"key {double!r} occurs {keys.count(double)} times in one object, which has {shown}. "
            "Keys must be unique: remove all but one."
        )
    return record


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(
        f"the value {name} is not JSON. Numbers must be finite: replace or remove the record."
    )

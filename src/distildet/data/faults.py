"""Collection of the faults of a data set, so that one error reports all of them."""

from collections.abc import Mapping
from pathlib import Path

from distildet.errors import DataError

MAX_EXAMPLES = 5


def raise_together(error_by_place: Mapping[str, DataError]) -> None:
    """End the reading of several sources with all that was found in them.

    Args:
        error_by_place: Key of the recipe, such as "data.labeled" -> why its source cannot be used.

    Raises:
        DataError: There are errors; each stands in the message after its place.
    """
    if error_by_place:
        parts = [f"{place}: {error}" for place, error in error_by_place.items()]
        raise DataError("\n".join(parts)) from next(iter(error_by_place.values()))


class Faults:
    """Faults of one file or folder, by kind.

    Args:
        source: The file or folder that is read; every message starts with it.
    """

    def __init__(self, source: Path) -> None:
        self._source = source
        self._examples_by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, record: str) -> None:
        """Note one fault.

        Args:
            kind: What is wrong, what is accepted and what to do; equal for all such records.
            record: Which record it is and what was found in it.
        """
        self._examples_by_kind.setdefault(kind, []).append(record)

    def raise_if_any(self) -> None:
        """End the reading if something was noted.

        Raises:
            DataError: There are faults; the message has each kind with its count and the first
                five records.
        """
        if self._examples_by_kind:
            parts = [
                f"{kind} ({len(records)}): {'; '.join(records[:MAX_EXAMPLES])}"
                + (" ..." if len(records) > MAX_EXAMPLES else "")
                for kind, records in self._examples_by_kind.items()
            ]
            raise DataError(f"{self._source}: " + "\n  ".join(parts))

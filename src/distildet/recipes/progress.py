"""What a run tells about itself while it works; the command line shows it."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives messages and counts; nothing below the command line prints."""

    def message(self, text: str) -> None:
        """Receive one line for the user."""

    def advance(
        self, work: str, done: int, total: int, values: Mapping[str, float] | None = None
    ) -> None:
        """Receive how far a piece of work is.

        Args:
            work: Its name, such as "seed-0/02-train".
            done: Finished units.
            total: All units.
            values: Latest losses, if any.
        """


class Silence:
    """Progress that nobody looks at."""

    def message(self, text: str) -> None:
        """Drop the line."""

    def advance(
        self, work: str, done: int, total: int, values: Mapping[str, float] | None = None
    ) -> None:
        """Drop the count."""

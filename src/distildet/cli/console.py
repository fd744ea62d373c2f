"""Printing: progress bars on a terminal, plain lines otherwise; control characters escaped."""

import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

PLAIN_INTERVAL_SECONDS = 10.0


def plain_text(text: str) -> str:
    """Return the text with control characters other than line feeds made visible."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )


def is_one_of_several() -> bool:
    """Tell, without loading torch, whether torchrun started more processes than this one."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def speaks() -> bool:
    """Tell whether this process prints what all would print; everyone where no rank is known."""
    return not is_one_of_several() or os.environ.get("RANK", "0") == "0"


def print_line(text: str) -> None:
    """Print to standard output."""
    print(plain_text(text), flush=True)


def print_error(text: str) -> None:
    """Print to standard error."""
    print(f"distildet: {plain_text(text)}", file=sys.stderr, flush=True)


def _three_digits(value: float) -> str:
    """Return a number with three significant digits, zeros at the end included."""
    return f"{value:#.3g}".rstrip(".")


class Console:
    """Progress of a run: bars where a person looks, one line an interval elsewhere."""

    def __init__(self) -> None:
        self._bars: RichProgress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}

    def message(self, text: str) -> None:
        """Print one line for the user, above the bars if there are any."""
        if self._bars is not None:
            self._bars.console.print(plain_text(text), markup=False, highlight=False)
        else:
            print_line(text)

    def advance(
        self, work: str, done: int, total: int, values: Mapping[str, float] | None = None
    ) -> None:
        """Show how far a piece of work is."""
        shown = "  ".join(
            f"{name} {_three_digits(value)}" for name, value in (values or {}).items()
        )
        if sys.stdout.isatty():
            self._bar(work, done, total, shown)
        else:
            self._line(work, done, total, shown)

    def close(self) -> None:
        """Leave the bars as they are and give the terminal back."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _bar(self, work: str, done: int, total: int, shown: str) -> None:
        if self._bars is None:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self._bars = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[shown]}", markup=False),
            )
            self._bars.start()
        if work not in self._tasks:
            self._tasks[work] = self._bars.add_task(plain_text(work), total=total, shown="")
        self._bars.update(self._tasks[work], completed=done, total=total, shown=shown)

    def _line(self, work: str, done: int, total: int, shown: str) -> None:
        now = time.monotonic()
        if done < total and now - self._last_line.get(work, -1e9) < PLAIN_INTERVAL_SECONDS:
            return
        self._last_line[work] = now
        print_line(f"{work}: {done}/{total}  {shown}".rstrip())

"""Every exception that distildet raises on purpose, each with the exit code of the command line.

A message answers where, what was found, what is accepted and what to do.
"""

import difflib
from collections.abc import Iterable


class DistildetError(Exception):
    """Root of all errors that are not bugs; the command line prints them without a traceback."""

    exit_code = 2


class ConfigError(DistildetError):
    """An option or a recipe has a value that cannot be used."""


class MissingPartError(DistildetError):
    """A detector was asked for a part that it does not have."""


class ClassMapError(DistildetError):
    """Class lists that cannot be brought together."""


class DataError(DistildetError):
    """Images or annotations that cannot be used; the message names file and record."""


class WeightsError(DistildetError):
    """Weights that are missing, damaged, or do not belong to this detector."""


class MissingExtraError(DistildetError):
    """A library is needed that is installed only with an extra; the message has the command."""

    def __init__(self, library: str, *, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs {library}, which is not installed. Run: "
            f'pip install "distildet[{extra}]"'
        )


class StoreError(DistildetError):
    """A pseudo-label store that does not fit what is asked of it."""


class StageError(DistildetError):
    """A run folder or stage whose content contradicts the recipe."""


class ResourceError(DistildetError):
    """The machine failed (disk full, worker killed); the run can be resumed."""

    exit_code = 3


class DivergedError(DistildetError):
    """Training produced non-finite losses again and again."""

    exit_code = 4


class InterruptedRunError(DistildetError):
    """Somebody stopped the run; it can be continued.

    Args:
        message: What was kept and how to go on.
        exit_code: 128 plus the number of the signal.
    """

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class GateError(DistildetError):
    """The work was done but a required quality was not reached."""

    exit_code = 5


def nearest_names(name: str, accepted: Iterable[str]) -> str:
    """Return a sentence that lists the accepted names and, where one is near, suggests it.

    Args:
        name: What the user wrote.
        accepted: All names that would have been right.
    """
    names = sorted(accepted)
    listed = f"Accepted: {', '.join(names)}." if names else "Nothing is accepted here."
    return listed + nearest_name(name, names)


def nearest_name(name: str, accepted: Iterable[str]) -> str:
    """Return a question after the name that may have been meant, with a space before it, or "".

    Args:
        name: What the user wrote.
        accepted: All names that would have been right.
    """
    near = difflib.get_close_matches(name, sorted(accepted), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def similar_names(name: str, accepted: Iterable[str]) -> str:
    """Return a sentence with the few names that are most like one, for lists too long to print.

    Args:
        name: What the user wrote.
        accepted: All names that would have been right.
    """
    near = difflib.get_close_matches(name, list(accepted), n=3, cutoff=0.5)
    return f"Nearest: {', '.join(map(repr, near))}." if near else "Nothing is similar."

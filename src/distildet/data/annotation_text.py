"""What formats with one annotation file an image have in common."""

from collections.abc import Sequence
from pathlib import Path

from distildet.data.faults import MAX_EXAMPLES, Faults
from distildet.data.names import one_line


def read_number(text: str) -> float | None:
    """Return the number that a text is, also nan and infinities, or None if it is none.

    Accepted are ASCII digits with a decimal point and an exponent; the underscores and the digits
    of other scripts that Python takes are not.
    """
    if "_" in text or not text.isascii():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def unlabeled_line(source: Path, names: Sequence[str], expected: str) -> str:
    """Return the line that tells of images that nobody has looked at.

    Args:
        source: Where the annotations are.
        names: The images.
        expected: What they do not have.
    """
    examples = ", ".join(repr(name) for name in names[:MAX_EXAMPLES])
    more = ", ..." if len(names) > MAX_EXAMPLES else ""
    return (
        f"{one_line(source)}: {len(names)} images without {expected}, which are unlabeled, not "
        f"background: {examples}{more}"
    )


def refuse_dropped(dropped: Sequence[str], faults: Faults) -> None:
    """Note what would be left out, for reading that is strict."""
    for line in dropped:
        faults.add(
            "records must be usable; correct them, or read without strict to leave them out", line
        )

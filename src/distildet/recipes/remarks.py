"""What a run says about records that are left out of its data: in short, and all in a file."""

import re
from collections.abc import Sequence

REMARKS = "remarks.txt"
SHOWN_OF_A_KIND = 20
_MOST_KINDS = 20
_OTHERS = "others"
# All that differs between two records with the same fault: quoted values, numbers and signs.
_VALUE = re.compile(r"""('[^']*'|"[^"]*"|\d[\d.]*(e[+-]?\d+)?|[^A-Za-z])+""")


def shorten_remarks(lines: Sequence[str]) -> list[str]:
    """Return the first lines of each kind, and how many more there are.

    Args:
        lines: One a record, such as "labels/a.txt:3: class '7'; accepted are 0..1". Lines that
            agree behind the place in all but values and numbers are of one kind; after twenty
            kinds, all others are one.

    Returns:
        At most `SHOWN_OF_A_KIND` lines of each kind, the kinds in the order of their first lines.
    """
    lines_by_kind: dict[str, list[str]] = {}
    for line in lines:
        kind = _VALUE.sub(" ", line.partition(": ")[2] or line)
        if kind not in lines_by_kind and len(lines_by_kind) >= _MOST_KINDS:
            kind = _OTHERS
        lines_by_kind.setdefault(kind, []).append(line)
    shown = []
    for same in lines_by_kind.values():
        shown += same[:SHOWN_OF_A_KIND]
        if len(same) > SHOWN_OF_A_KIND:
            shown.append(f"... and {len(same) - SHOWN_OF_A_KIND} more like these, in {REMARKS}")
    return shown

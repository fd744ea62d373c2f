"""Reads the rows of YOLO label files: a class, and a box or polygon in fractions of the image."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from distildet.data.annotation_text import read_number
from distildet.data.boxes import Corners
from distildet.data.faults import MAX_EXAMPLES, Faults
from distildet.data.names import one_line

# Boxes drawn over the edge of an image are a little above 1; nobody draws half an image beyond it.
_LARGEST_FRACTION = 1.5
# Nothing but pixels is meant by larger numbers; one row in ten is no slip of the pen any more.
_LARGEST_SLIP = 2.0
_ROWS_A_SLIP = 10
_NUM_EXAMPLES = 3


class Row(NamedTuple):
    """A row that can be used.

    Args:
        place: File and line, for messages.
        label: 0-based.
        corners: x1 y1 x2 y2, fractions of the width and height of the image.
    """

    place: str
    label: int
    corners: Corners


class LabelFile(NamedTuple):
    """What a label file says.

    Args:
        where: The file, for messages.
        rows: Those that can be used, each once.
        rejected: A line for each row that cannot be used; it begins with the file and its line.
    """

    where: str
    rows: list[Row]
    rejected: list[str]


def read_rows(
    paths: Sequence[Path], num_classes: int, faults: Faults
) -> tuple[dict[Path, LabelFile], list[str]]:
    """Read label files.

    Args:
        paths: The files.
        num_classes: Classes are 0..num_classes - 1.
        faults: Where files that cannot be read are noted, and that many rows look like pixels.

    Returns:
        What each file says; and lines that tell of all rows that are left out.
    """
    file_by_path: dict[Path, LabelFile] = {}
    repeated: list[str] = []
    pixels: list[str] = []
    num_rows = 0
    for path in paths:
        kept: dict[tuple[int, tuple[float, ...]], Row] = {}
        rejected: list[str] = []
        for place, columns in _lines(path, faults):
            label, numbers, reason = _read_columns(columns, num_classes)
            num_rows += not reason
            if reason:
                rejected.append(f"{place}: {reason}")
            elif max(numbers) > _LARGEST_FRACTION:
                rejected.append(
                    f"{place} has {' '.join(columns)!r:.80}: far beyond 1, but fractions of the "
                    "image are accepted"
                )
                pixels += rejected[-1:] if max(numbers) > _LARGEST_SLIP else []
            elif (label, numbers) in kept:
                repeated.append(place)
            else:
                kept[label, numbers] = Row(place, label, _corners(numbers))
        file_by_path[path] = LabelFile(one_line(path), list(kept.values()), rejected)
    dropped = [line for file in file_by_path.values() for line in file.rejected]
    if _note_pixels(pixels, num_rows, faults):
        told = set(pixels)
        dropped = [line for line in dropped if line not in told]
    if repeated:
        examples = ", ".join(repeated[:MAX_EXAMPLES])
        more = ", ..." if len(repeated) > MAX_EXAMPLES else ""
        dropped.append(f"{len(repeated)} rows that stand in their file already: {examples}{more}")
    return file_by_path, dropped


def _note_pixels(pixels: Sequence[str], num_rows: int, faults: Faults) -> bool:
    """Note that rows look like pixels if they are more than slips; tell whether they are."""
    if not pixels or _ROWS_A_SLIP * len(pixels) < num_rows:
        return False
    kind = (
        f"these look like pixels, since {len(pixels)} of {num_rows} rows have a number above "
        f"{_LARGEST_SLIP:g}; accepted are fractions 0..1: divide x by the width and y by the "
        "height of the image; examples"
    )
    for line in pixels[:_NUM_EXAMPLES]:
        faults.add(kind, line.partition(": far beyond")[0])
    return True


def _lines(path: Path, faults: Faults) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the columns of each row."""
    where = one_line(path)
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        faults.add("label files must be readable; check their rights", f"{where}: {error.strerror}")
        return
    except UnicodeDecodeError as error:
        faults.add("label files must be UTF-8 text", f"{where}: byte {error.start} is not")
        return
    for number, line in enumerate(lines, start=1):
        if columns := line.split():
            yield f"{where}:{number}", columns


def _read_columns(columns: list[str], num_classes: int) -> tuple[int, tuple[float, ...], str]:
    """Return label, coordinates, and why the row cannot be used, which is empty if it can."""
    numbers = [read_number(text) for text in columns]
    label, coordinates = numbers[0], [number for number in numbers[1:] if number is not None]
    reason = ""
    if len(columns) == 6:
        reason = "6 columns; the last may be a confidence, which labels do not have: remove it"
    elif len(columns) < 5 or len(columns) % 2 == 0:
        reason = (
            f"{len(columns)} columns; accepted are 5 (class cx cy width height), or a class and "
            "the x y of at least 3 points"
        )
    elif label is None or label not in range(num_classes):
        reason = f"class {columns[0]!r:.40}; accepted are 0..{num_classes - 1}"
    elif None in numbers:
        text = columns[numbers.index(None)]
        reason = f"{text!r:.40} is no number; accepted are digits with a decimal point"
    elif not all(map(math.isfinite, coordinates)):
        reason = "a number is not finite"
    return (0 if reason else int(label or 0)), tuple(coordinates), reason


def _corners(numbers: Sequence[float]) -> Corners:
    if len(numbers) == 4:
        cx, cy, width, height = numbers
        return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    xs, ys = numbers[0::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)

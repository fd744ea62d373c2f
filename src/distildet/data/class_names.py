"""Reads class names from a text file."""

from pathlib import Path

from distildet.classes import ClassList
from distildet.data.names import require_regular_file
from distildet.data.unfetched import describe_unfetched
from distildet.errors import ClassMapError, DataError


def read_class_names(path: Path) -> ClassList:
    """Read class names, one a line in the order of the labels; empty lines are passed over.

    Raises:
        DataError: The file cannot be read, is not UTF-8, or has no name or one twice.
    """
    try:
        require_regular_file(path)
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: the class names cannot be read ({error.strerror}). Give a text file with one "
            "name a line."
        ) from error
    unfetched = describe_unfetched(content, "a list of class names")
    if unfetched is not None:
        raise DataError(f"{path}: {unfetched}")
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 text. Give a text file with one name a line."
        ) from error
    try:
        return ClassList(tuple(line.strip() for line in lines if line.strip()))
    except ClassMapError as error:
        raise DataError(f"{path}: {error}") from error

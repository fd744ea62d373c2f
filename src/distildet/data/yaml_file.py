"""Reads YAML that comes from outside as mappings, lists and texts; nothing is ever constructed."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from distildet.data.names import require_regular_file
from distildet.data.unfetched import describe_unfetched
from distildet.errors import DataError

SIZE_LIMIT_BYTES = 1_000_000
_DEEPEST = 32
_UNUSABLE_TEXT = re.compile("[\0\ud800-\udfff]")


def read_yaml(path: Path) -> Any:
    """Read a YAML file, of which every scalar stays a text.

    A byte order mark is passed over.

    Raises:
        DataError: It is no file or cannot be read, is an HTML page or a Git LFS pointer, is
            larger than `SIZE_LIMIT_BYTES`, is not UTF-8, or `parse_yaml` refuses it.
    """
    try:
        require_regular_file(path)
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: the file cannot be read ({error.strerror}). Give the path of a YAML file."
        ) from error
    unfetched = describe_unfetched(content, "YAML")
    if unfetched is not None:
        raise DataError(f"{path}: {unfetched}")
    if len(content) > SIZE_LIMIT_BYTES:
        raise DataError(
            f"{path}: larger than {SIZE_LIMIT_BYTES} bytes. Accepted: a short YAML file; "
            "give its path."
        )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: this is no UTF-8 text. Save the file as UTF-8.") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> Any:
    """Return YAML as mappings, lists and texts; nothing else is constructed.

    Args:
        text: The whole text.
        source: File name, or what else it is called in messages.

    Raises:
        DataError: It is no YAML, or has more than one document, an anchor, alias, tag or
            double key; all are listed, with line and column.
    """
    try:
        reader = _PlainReader(text, source)
        value = reader.read()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DataError(f"{source}:{line}: no YAML: {error.reason}.") from error
    except yaml.MarkedYAMLError as error:
        raise DataError(
            f"{_place(source, error.problem_mark)}: no YAML: {error.problem}."
        ) from error
    if reader.faults:
        raise DataError("\n".join(reader.faults))
    return value


def _place(source: str, mark: Any) -> str:
    return f"{source}:{mark.line + 1}:{mark.column + 1}"


class _PlainReader:
    """Builds plain values from the events of a YAML text; nothing in it is ever constructed.

    Args:
        text: The whole text.
        source: File name as it reads in messages.
    """

    def __init__(self, text: str, source: str) -> None:
        self.faults: list[str] = []
        self._source = source
        self._loader = yaml.BaseLoader(text)
        self._events: Iterator[Any] = iter(self._next_event, None)

    def read(self) -> Any:
        """Return the value of the one document; an empty text is an empty text."""
        value: Any = ""
        num_documents = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    self._refuse(event, "a second document begins here. One is accepted.")
            elif isinstance(event, yaml.NodeEvent):
                value = self._node(event, depth=1)
        return value

    def _next_event(self) -> Any:
        """Return the next event, or None after the last one."""
        try:
            return self._loader.get_event()  # type: ignore[no-untyped-call] # the stubs lack it
        except (ValueError, OverflowError) as error:  # PyYAML's, of \U00110000 and %YAML 9...9
            place = _place(self._source, self._loader.get_mark())
            raise DataError(
                f"{place}: no YAML: a number of a character or version is too large. Accepted "
                "for a character: up to 10FFFF."
            ) from error

    def _refuse(self, event: Any, message: str) -> None:
        self.faults.append(f"{_place(self._source, event.start_mark)}: {message}")

    def _node(self, event: Any, depth: int) -> Any:
        if depth > _DEEPEST:
            place = _place(self._source, event.start_mark)
            raise DataError(f"{place}: nested deeper than {_DEEPEST} levels. Accepted: fewer.")
        self._check(event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(depth)
        return event.value if isinstance(event, yaml.ScalarEvent) else ""

    def _check(self, event: Any) -> None:
        """Note what a node may not have."""
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, f"the alias *{event.anchor} is refused. Write the value out.")
            return
        if event.anchor is not None:
            self._refuse(event, f"the anchor &{event.anchor} is refused. Remove it.")
        if event.tag is not None:
            self._refuse(event, f"the tag {event.tag!r} is refused. Values are typed by their key.")
        if isinstance(event, yaml.ScalarEvent) and _UNUSABLE_TEXT.search(event.value):
            self._refuse(event, f"the text {event.value!r} has a character that no text may have.")

    def _sequence(self, depth: int) -> list[Any]:
        values = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._node(event, depth + 1))
        return values

    def _mapping(self, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            is_text = isinstance(event, yaml.ScalarEvent)
            if not is_text:
                self._refuse(event, "this key is no text. Accepted: a name.")
            elif key in values:
                self._refuse(event, f"the key {key!r} is given already in line {lines[key]}.")
            else:
                values[key] = value
                lines[key] = event.start_mark.line + 1
        return values

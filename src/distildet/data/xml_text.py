"""What XML can hold, for the formats that are written in it."""

import re
from xml.etree.ElementTree import Element, indent, tostring

from distildet.classes import ClassList
from distildet.errors import DataError

# The characters of XML 1.0, without the carriage return, which readers turn into a line feed.
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def require_xml_names(classes: ClassList, format_name: str) -> None:
    """Make sure that class names come back from XML as they are.

    Raises:
        DataError: A name has characters that XML cannot hold, or spaces around it, which are cut
            off where it is read.
    """
    for name in classes:
        if _NOT_XML.search(name) or name != name.strip():
            raise DataError(
                f"class {name!r}: {format_name} is XML, which cannot hold control characters and "
                "cuts off spaces around a name. Rename the class, or choose another format."
            )


def as_xml_text(text: str) -> str:
    """Return a text with U+FFFD in the place of what XML cannot hold."""
    return _NOT_XML.sub("\ufffd", text)


def xml_bytes(element: Element) -> bytes:
    """Return an element, indented, as UTF-8."""
    indent(element)
    text = tostring(element, encoding="unicode")
    return f"{text}\n".encode()

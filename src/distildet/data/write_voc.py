"""Writes annotations in the format of PASCAL VOC: one XML file an image."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, SubElement

from distildet.classes import ClassList
from distildet.data.faults import Faults
from distildet.data.image_record import ImageRecord, areas_left_out, scores_left_out
from distildet.data.owned_folder import note_unwritable, write_folder
from distildet.data.voc_names import name_without_suffix
from distildet.data.xml_text import as_xml_text, require_xml_names, xml_bytes

_FORMAT = "VOC"
_ANNOTATIONS = "Annotations"
_LIST = "ImageSets/Main/all.txt"
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_SHOWN_CLASSES = 5
# A millionth of a pixel; what is beyond is noise of the arithmetic.
_DECIMALS = 6


def write_voc(folder: Path, records: Sequence[ImageRecord], classes: ClassList) -> tuple[str, ...]:
    """Write a folder with `Annotations/NAME.xml` for each image, and `ImageSets/Main/all.txt`.

    Edges are distances in pixels from the left and upper edge of the image, rounded to a
    millionth, and without the 1 that the development kit of VOC adds. Crowd regions are marked
    difficult. An image without boxes has a file without objects: background.

    Scores and areas are not part of the format and are not written. Neither is the list of the
    classes: who reads the files knows those that have a box, in the order of the alphabet.

    Args:
        folder: New, or as an earlier call left it.
        records: What to write.
        classes: Of the labels.

    Returns:
        One line for each kind of thing that is not written, with the number of such things.

    Raises:
        ConfigError: The folder has other things in it.
        DataError: Images would share an XML file, such as a.jpg and a.png, or cannot be listed;
            or XML cannot hold a class name.
        ResourceError: The disk is full.
    """
    require_xml_names(classes, _FORMAT)
    stems = [name_without_suffix(record.name) for record in records]
    faults = Faults(folder)
    files = [f"{_ANNOTATIONS}/{stem}.xml" for stem in stems]
    note_unwritable(zip(files, (record.name for record in records), strict=True), faults)
    for stem in stems:
        if "\n" in stem or stem != stem.strip():
            faults.add(
                "names must stand on a line of a list, so without line feed and spaces around "
                "them; rename the images",
                repr(stem),
            )
    faults.raise_if_any()
    write_folder(folder, _contents(stems, records, classes))
    return (
        *scores_left_out(records, _FORMAT),
        *areas_left_out(records, _FORMAT),
        *_classes_left_out(records, classes),
    )


def _contents(
    stems: Sequence[str], records: Sequence[ImageRecord], classes: ClassList
) -> Iterator[tuple[str, bytes]]:
    # File names may have bytes that are not UTF-8.
    yield _LIST, "".join(f"{stem}\n" for stem in stems).encode("utf-8", "surrogateescape")
    for stem, record in zip(stems, records, strict=True):
        yield f"{_ANNOTATIONS}/{stem}.xml", xml_bytes(_annotation(record, classes))


def _annotation(record: ImageRecord, classes: ClassList) -> Element:
    annotation = Element("annotation")
    _add(annotation, "filename", as_xml_text(PurePosixPath(record.name).name))
    size = SubElement(annotation, "size")
    height, width = record.size
    _add(size, "width", str(width))
    _add(size, "height", str(height))
    _add(size, "depth", "3")
    for box, label, crowd in zip(
        record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True
    ):
        entry = SubElement(annotation, "object")
        _add(entry, "name", classes[label])
        _add(entry, "difficult", str(int(crowd)))
        edges = SubElement(entry, "bndbox")
        for tag, edge in zip(_EDGES, box, strict=True):
            _add(edges, tag, _number(edge))
    return annotation


def _add(parent: Element, tag: str, text: str) -> None:
    SubElement(parent, tag).text = text


def _number(edge: float) -> str:
    """Return a rounded number without needless zeros, whole ones as programs of VOC want them."""
    rounded = round(edge, _DECIMALS)
    if rounded.is_integer():
        return str(int(rounded))
    return f"{rounded:.{_DECIMALS}f}".rstrip("0")


def _classes_left_out(records: Sequence[ImageRecord], classes: ClassList) -> list[str]:
    used = {label for record in records for label in record.labels.tolist()}
    unused = [name for label, name in enumerate(classes) if label not in used]
    if not unused:
        return []
    names = ", ".join(map(repr, unused[:_SHOWN_CLASSES]))
    more = ", ..." if len(unused) > _SHOWN_CLASSES else ""
    return [f"{len(unused)} classes without a box: {names}{more}"]

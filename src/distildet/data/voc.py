"""Reads annotations in the format of PASCAL VOC: one XML file an image."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

from distildet.classes import ClassList
from distildet.data.annotation_text import read_number, refuse_dropped, unlabeled_line
from distildet.data.boxes import BoxRecord, Corners, clip_corners, collect_annotations
from distildet.data.dataset import Dataset, Sample
from distildet.data.faults import Faults
from distildet.data.folder import read_folder
from distildet.data.headers import refuse_other_sizes
from distildet.data.names import is_regular_file, one_line, relative_name, require_folder
from distildet.data.voc_names import listed_stems, name_without_suffix
from distildet.errors import DataError

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_IS_CROWD = {"": False, "0": False, "false": False, "1": True, "true": True}


class _Object(NamedTuple):
    """An object as written; a field that is missing is an empty text."""

    name: str
    edges: tuple[str, ...]
    difficult: str


class _Document(NamedTuple):
    """What an XML file says, as written; a field that is missing is an empty text."""

    where: str
    file_name: str
    height: str
    width: str
    objects: tuple[_Object, ...]


def read_voc(
    images: Path,
    annotations: Path,
    *,
    listed: Path | None = None,
    root: Path | None = None,
    strict: bool = False,
) -> Dataset:
    """Read images and boxes from a folder of XML files in the format of PASCAL VOC.

    An image and an XML file belong together if their names without suffix are equal, folders
    included; what the XML file says about names and folders is not followed. An image without XML
    file is unlabeled and left out; an XML file without objects means background.

    Edges are taken as written, as distances from the left and upper edge of the image. The
    development kit of VOC counts pixels from 1 and means the last pixel inclusive; most tools
    that write the format do not, and nothing in a file says which was meant. Boxes are clipped to
    the image; a box that has no area then is left out and noted in `dropped`. Objects marked
    difficult become crowd regions, which neither train nor count. Parts and polygons of objects
    are not read.

    Labels follow the sorted class names of all XML files of the folder, listed or not, so that
    the training and the validation list of one folder give the same class list.

    Args:
        images: Folder of the images, such as JPEGImages.
        annotations: Folder of the XML files, such as Annotations.
        listed: Text file of names, one a line, such as ImageSets/Main/train.txt, that restricts
            the images. Names may have the suffix of an image; a second column of -1, 0 or 1 is
            passed over.
        root: What sample ids are relative to; `images` if None.
        strict: Refuse the folder if a box would be left out.

    Returns:
        Samples sorted by name, or in the order of the list, each with annotations (that may have
        no boxes).

    Raises:
        DataError: A file cannot be read, or is contradictory or incomplete; all faults are
            listed, each kind with its first five records.
    """
    require_folder(images)
    faults = Faults(annotations)
    documents = _read_documents(annotations, faults)
    class_list = _class_list(annotations, documents.values(), faults)
    found = read_folder(images)
    paired, unlabeled = _pair(found.samples, documents, listed, faults)
    size_by_path: dict[Path, tuple[int, int]] = {}
    boxes_by_path: dict[Path, list[BoxRecord]] = {}
    dropped: list[str] = []
    for path, document in paired.items():
        size = _read_size(document, faults)
        if size is not None:
            size_by_path[path] = size
            boxes_by_path[path] = _read_boxes(document, size, class_list, faults, dropped)
    if strict:
        refuse_dropped(dropped, faults)
    faults.raise_if_any()
    if unlabeled:
        dropped.append(unlabeled_line(annotations, unlabeled, "an XML file of the same name"))
    if not paired:
        raise DataError(f"{dropped[-1]}. Give the folder of their XML files.")
    refuse_other_sizes(annotations, size_by_path)
    base = images if root is None else root
    samples = tuple(
        Sample(id=relative_name(path, base), path=path, annotations=collect_annotations(boxes))
        for path, boxes in boxes_by_path.items()
    )
    return Dataset(samples=samples, classes=class_list, dropped=tuple(dropped), notes=found.notes)


def _read_documents(folder: Path, faults: Faults) -> dict[str, _Document]:
    """Return what the XML files say, by name without suffix, sorted."""
    if not folder.is_dir():
        found = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"{one_line(folder)}: {found}. Give the folder of XML files, such as Annotations."
        )
    documents: dict[str, _Document] = {}
    paths = _find_xml(folder)
    for path in paths:
        stem = name_without_suffix(relative_name(path, folder))
        document = _parse(path, faults)
        if stem in documents:
            faults.add("one XML file an image is accepted; remove the others", one_line(path))
        elif document is not None:
            documents[stem] = document
    if not paths:
        raise DataError(
            f"{one_line(folder)}: there is no XML file in this folder. Give the one with them."
        )
    return documents


def _find_xml(folder: Path) -> list[Path]:
    found = []
    for place, folders, files in os.walk(folder, onerror=_refuse_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(place, name)
            for name in files
            if not name.startswith(".") and name.lower().endswith(".xml")
        ]
    # Opening a pipe would wait for ever.
    return sorted(path for path in found if is_regular_file(path))


def _refuse_unreadable(error: OSError) -> NoReturn:
    raise DataError(
        f"{one_line(Path(error.filename))}: the folder cannot be read ({error.strerror}). Change "
        "who may read it, or take it out of the folder of XML files."
    ) from error


def _parse(path: Path, faults: Faults) -> _Document | None:
    """Return what an XML file says, or None after noting why it cannot be read."""
    where = one_line(path)
    try:
        element = fromstring(path.read_bytes())
    except OSError as error:
        faults.add("XML files must be readable; check their rights", f"{where}: {error.strerror}")
    except DefusedXmlException:
        faults.add(
            "XML files must have no entities, which can grow without bound or read other files; "
            "write the values out",
            where,
        )
    except (ParseError, ValueError, LookupError) as error:  # the last two: of the encoding
        faults.add("files must be XML; repair them, or write them again", f"{where}: {error}")
    else:
        if element.tag == "annotation":
            return _as_written(where, element)
        faults.add(
            "the outermost element of an XML file must be 'annotation'; remove other files",
            f"{where} has {element.tag!r:.80}",
        )
    return None


def _as_written(where: str, element: Any) -> _Document:
    size = element.find("size")
    return _Document(
        where=where,
        file_name=_text(element, "filename"),
        height=_text(size, "height"),
        width=_text(size, "width"),
        objects=tuple(_object_as_written(child) for child in element.findall("object")),
    )


def _object_as_written(element: Any) -> _Object:
    box = element.find("bndbox")
    return _Object(
        name=_text(element, "name"),
        edges=tuple(_text(box, edge) for edge in _EDGES),
        difficult=_text(element, "difficult"),
    )


def _text(element: Any, tag: str) -> str:
    text: str = "" if element is None else element.findtext(tag, default="")
    return text.strip()


def _class_list(folder: Path, documents: Iterable[_Document], faults: Faults) -> ClassList:
    names = {entry.name for document in documents for entry in document.objects} - {""}
    if not names:
        faults.raise_if_any()
        raise DataError(
            f"{one_line(folder)}: no XML file has an object with a name, so there are no classes. "
            "Give a folder in which at least one object is annotated."
        )
    return ClassList(tuple(sorted(names)))


def _pair(
    samples: Sequence[Sample],
    documents: Mapping[str, _Document],
    listed: Path | None,
    faults: Faults,
) -> tuple[dict[Path, _Document], list[str]]:
    """Return what is said about each annotated image, and the names of the others."""
    by_stem: dict[str, list[Sample]] = {}
    for sample in samples:
        by_stem.setdefault(name_without_suffix(sample.id), []).append(sample)
    known = documents.keys() | by_stem.keys()
    stems = sorted(known) if listed is None else listed_stems(listed, known, faults)
    paired: dict[Path, _Document] = {}
    unlabeled: list[str] = []
    for stem in stems:
        found, document = by_stem.get(stem, []), documents.get(stem)
        if document is None:
            unlabeled += [sample.id for sample in found]
        elif len(found) == 1:
            paired[found[0].path] = document
        elif found:
            faults.add(
                "images must differ in more than their suffix, or they share an XML file; rename "
                "or remove the others",
                ", ".join(repr(sample.id) for sample in found),
            )
        else:
            hint = f" (its filename is {document.file_name!r:.120})" if document.file_name else ""
            faults.add(
                "each XML file needs an image of the same name, but for these there is none",
                f"{document.where}{hint}",
            )
    return paired, unlabeled


def _read_size(document: _Document, faults: Faults) -> tuple[int, int] | None:
    """Return (height, width), or None after noting what is wrong with them."""
    height, width = (read_number(side) for side in (document.height, document.width))
    if _is_count(height) and _is_count(width):
        return int(height or 0), int(width or 0)
    faults.add(
        "'size' must have 'width' and 'height', whole numbers above 0; write them there",
        f"{document.where} has width {document.width!r:.40} and height {document.height!r:.40}",
    )
    return None


def _is_count(number: float | None) -> bool:
    return number is not None and number > 0 and number.is_integer()


def _read_boxes(
    document: _Document,
    size: tuple[int, int],
    class_list: ClassList,
    faults: Faults,
    dropped: list[str],
) -> list[BoxRecord]:
    """Return the boxes of an image; boxes without area are added to `dropped`."""
    records = []
    for number, entry in enumerate(document.objects, start=1):
        where = f"{document.where}: object {number} ({entry.name!r:.80})"
        corners = _corners(entry)
        crowd = _IS_CROWD.get(entry.difficult.lower())
        if not entry.name:
            faults.add("objects must have a name; write one, or remove them", where)
        elif crowd is None:
            faults.add("'difficult' must be 0 or 1", f"{where} has {entry.difficult!r:.80}")
        elif corners is None:
            faults.add(
                "'bndbox' must have xmin, ymin, xmax and ymax, numbers of pixels with a decimal "
                "point",
                f"{where} has {_shown(entry)}",
            )
        elif (clipped := clip_corners(corners, size)) is None:
            dropped.append(
                f"{where}: bndbox {_shown(entry)} has no area inside the image of "
                f"{size[1]}x{size[0]} pixels"
            )
        else:
            x1, y1, x2, y2 = clipped
            records.append(
                BoxRecord(
                    corners=clipped,
                    label=class_list.label(entry.name),
                    area=(x2 - x1) * (y2 - y1),
                    crowd=crowd,
                )
            )
    return records


def _corners(entry: _Object) -> Corners | None:
    x1, y1, x2, y2 = (read_number(edge) for edge in entry.edges)
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return None
    return x1, y1, x2, y2


def _shown(entry: _Object) -> str:
    written = zip(_EDGES, entry.edges, strict=True)
    return ", ".join(f"{edge} {text!r:.40}" for edge, text in written)

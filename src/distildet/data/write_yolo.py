"""Writes annotations in the format of YOLO: one text file an image, and a data.yaml of names."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from distildet.classes import ClassList
from distildet.data.faults import Faults
from distildet.data.image_record import (
    ImageRecord,
    areas_left_out,
    crowd_left_out,
    scores_left_out,
)
from distildet.data.owned_folder import note_unwritable, write_folder
from distildet.data.yolo import label_name

_FORMAT = "YOLO"
_DATA_YAML = "data.yaml"
# On an image 20,000 pixels wide, edges move by less than half a millionth of a pixel: the last
# decimal of VOC comes back, so that files do not change when they go to and fro.
_DECIMALS = 11
# Half of a pair that stands for one sign in UTF-16; alone it is no text. JSON can bring it in.
_SURROGATE = re.compile("[\ud800-\udfff]")
_HEAD = """\
# The boxes of X/images/NAME.jpg are in X/labels/NAME.txt: lay the folder `labels` beside `images`.
# Programs that train also want the keys `train` and `val`, the folders of the images: add them.
"""


def write_yolo(folder: Path, records: Sequence[ImageRecord], classes: ClassList) -> tuple[str, ...]:
    """Write a folder with `labels/NAME.txt` for each image, and `data.yaml`.

    A row is `class cx cy width height`, all but the class as fractions of the image. An image
    without boxes has an empty file: background. Names are taken as relative to a folder `images`,
    beside which `labels` belongs; in a name that has a folder `images` itself, the last one
    becomes `labels`, as programs that read the format do.

    Scores are not written, since a sixth column would break programs that read the format; neither
    are areas, nor crowd regions, which the format cannot tell from objects.

    Args:
        folder: New, or as an earlier call left it.
        records: What to write.
        classes: Of the labels.

    Returns:
        One line for each kind of thing that is not written, with the number of such things.

    Raises:
        ConfigError: The folder has other things in it.
        DataError: Images would share a label file, such as a.jpg and a.png, or a class name has
            half of a surrogate pair, which no text file holds; all are listed.
        ResourceError: The disk is full.
    """
    files = [_label_file(record.name) for record in records]
    faults = Faults(folder)
    note_unwritable(zip(files, (record.name for record in records), strict=True), faults)
    for name in classes:
        if _SURROGATE.search(name):
            faults.add(
                "class names must be text without half of a surrogate pair; rename them", repr(name)
            )
    faults.raise_if_any()
    write_folder(folder, _contents(files, records, classes))
    return (
        *scores_left_out(records, _FORMAT),
        *crowd_left_out(records, _FORMAT),
        *areas_left_out(records, _FORMAT),
    )


def _label_file(name: str) -> str:
    image = PurePosixPath(name)
    path = label_name(image)
    return path.as_posix() if path.parent != image.parent else f"labels/{path.as_posix()}"


def _contents(
    files: Sequence[str], records: Sequence[ImageRecord], classes: ClassList
) -> Iterator[tuple[str, bytes]]:
    yield _DATA_YAML, _data_yaml(classes).encode()
    for name, record in zip(files, records, strict=True):
        yield name, "".join(f"{row}\n" for row in _rows(record)).encode()


def _rows(record: ImageRecord) -> Iterator[str]:
    height, width = record.size
    for (x1, y1, x2, y2), label, crowd in zip(
        record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True
    ):
        if not crowd:
            centre = _fraction((x1 + x2) / 2, width), _fraction((y1 + y2) / 2, height)
            sides = _fraction(x2 - x1, width), _fraction(y2 - y1, height)
            yield " ".join([str(label), *centre, *sides])


def _fraction(pixels: float, side: int) -> str:
    """Return a length as fraction of a side, with a decimal point and no needless zeros."""
    return f"{pixels / side:.{_DECIMALS}f}".rstrip("0").removesuffix(".")


def _data_yaml(classes: ClassList) -> str:
    names = "".join(f"  {label}: {_quoted(name)}\n" for label, name in enumerate(classes))
    return f"{_HEAD}nc: {len(classes)}\nnames:\n{names}"


def _quoted(name: str) -> str:
    """Return a name as text in double quotes, which YAML reads as JSON does.

    Characters that cannot be printed are refused by YAML unless they are escaped; pairs of
    surrogates, by which JSON in ASCII writes what is beyond 16 bits, are none of YAML's.
    """
    text = json.dumps(name, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)

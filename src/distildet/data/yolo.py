"""Reads annotations in the format of YOLO: one text file an image, and a data.yaml of names."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from distildet.classes import ClassList
from distildet.data.annotation_text import refuse_dropped, unlabeled_line
from distildet.data.boxes import BoxRecord, clip_corners, collect_annotations
from distildet.data.dataset import Dataset, Sample
from distildet.data.faults import Faults
from distildet.data.folder import read_folder
from distildet.data.headers import probe_size
from distildet.data.names import is_regular_file, one_line
from distildet.data.yaml_file import read_yaml
from distildet.data.yolo_rows import LabelFile, Row, read_rows
from distildet.errors import DataError

_INDEX = re.compile(r"[0-9]{1,9}")
# Of annotations in the other formats; JSON would pass as YAML.
_OTHER_SUFFIXES = frozenset({".json", ".xml"})


def label_path(image: Path) -> Path:
    """Return where the label file of an image is looked for.

    It has the suffix .txt, and the last folder named `images` in the absolute path is `labels`
    there; if there is no such folder, it lies beside the image.
    """
    # abspath, not resolve: the layout is that of the names that the user sees.
    return Path(label_name(PurePath(os.path.abspath(image))))  # noqa: PTH100 - see above


def label_name(image: PurePath) -> PurePath:
    """Return an image's path with the suffix .txt and its last folder `images` as `labels`."""
    parts = list(image.with_suffix(".txt").parts)
    folders = parts[:-1]
    if "images" in folders:
        parts[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return type(image)(*parts)


def read_yolo(
    images: Path,
    annotations: Path,
    *,
    listed: Path | None = None,
    root: Path | None = None,
    strict: bool = False,
) -> Dataset:
    """Read images and boxes from label files in the format of YOLO.

    A row of a label file is `class cx cy width height`, all but the class as fractions of the
    width and height of the image, or a class and the points `x y` of a polygon, of which the
    surrounding box is taken. An image without label file is unlabeled and left out; an empty
    label file means background.

    Boxes are clipped to the image. Rows that cannot be used, that have no area in the image, or
    that stand in a file twice are left out and noted in `dropped` with file and line; the other
    rows of the file are kept. An image of which no row is left is not background: it is left out
    as unlabeled, and noted too.

    Args:
        images: Folder of the images, such as images/train; see `label_path` for their labels.
        annotations: The data.yaml. `names`, a list or a mapping from 0, 1, ..., and `nc` are read;
            paths and other keys are passed over.
        listed: Text file of file names, one a line, that restricts the images.
        root: What sample ids are relative to; `images` if None.
        strict: Refuse the labels if a row would be left out.

    Returns:
        Samples sorted by name, or in the order of the list, each with annotations (that may have
        no boxes).

    Raises:
        DataError: A file cannot be read, the names are contradictory, no image has a label file,
            no row can be used, or a tenth of the rows look like pixels; all faults are listed,
            each kind with its first records.
    """
    class_list = _read_class_list(annotations)
    found = read_folder(images, listed=listed, root=root)
    faults = Faults(annotations)
    label_by_image, unlabeled = _find_labels(found.samples, annotations, faults)
    file_by_path, dropped = read_rows(list(label_by_image.values()), len(class_list), faults)
    file_by_image = {image: file_by_path[path] for image, path in label_by_image.items()}
    samples, without_area, rejected = _annotated(found.samples, file_by_image, faults)
    num_usable = sum(len(file.rows) for file in file_by_path.values()) - len(without_area)
    dropped += without_area
    if strict:
        refuse_dropped(dropped, faults)
    elif dropped and not num_usable:
        for line in dropped:
            faults.add("no row can be used; correct them", line)
    faults.raise_if_any()
    dropped += rejected
    if unlabeled:
        dropped.append(unlabeled_line(annotations, unlabeled, "a label file"))
    return Dataset(
        samples=tuple(samples), classes=class_list, dropped=tuple(dropped), notes=found.notes
    )


def _read_class_list(path: Path) -> ClassList:
    """Return the names of a data.yaml in the order of their numbers."""
    if path.is_dir() or path.suffix.lower() in _OTHER_SUFFIXES:
        raise DataError(
            f"{one_line(path)}: in the format yolo the annotations are a data.yaml with the class "
            "names under 'names'; the label files are found by the images. Give the path of the "
            "data.yaml, or the format of this: coco for JSON, voc for a folder of XML."
        )
    document = read_yaml(path)
    if not isinstance(document, dict):
        raise DataError(
            f"{one_line(path)}: this is no data.yaml. Accepted: a mapping with the key 'names'."
        )
    faults = Faults(path)
    names = _names_in_order(document.get("names"))
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        faults.add(
            "'names' must be a list of class names, or a mapping to them from 0, 1, ...; none may "
            "be empty or left out",
            f"found {document.get('names')!r:.120}",
        )
    for name, times in Counter(name for name in names if isinstance(name, str)).items():
        if times > 1:
            faults.add("'names' must be unique, but one occurs again; rename it", f"{name!r:.80}")
    count = document.get("nc")
    if count is not None and names and count != str(len(names)):
        faults.add(
            "'nc' must be the number of names; correct one of the two",
            f"found {count!r:.80} and {len(names)} names",
        )
    if "kpt_shape" in document:
        faults.add(
            "rows with key points are not read; give labels that have only boxes",
            f"found kpt_shape: {document['kpt_shape']!r:.80}",
        )
    faults.raise_if_any()
    return ClassList(tuple(names))


def _names_in_order(names: Any) -> list[Any]:
    """Return the values of a list, or of a mapping from 0, 1, ..., and nothing of all else."""
    if isinstance(names, list):
        return names
    if not isinstance(names, dict) or not all(map(_INDEX.fullmatch, names)):
        return []
    name_by_label = {int(key): name for key, name in names.items()}
    is_complete = len(name_by_label) == len(names) == max(name_by_label, default=-1) + 1
    return [name_by_label[label] for label in sorted(name_by_label)] if is_complete else []


def _find_labels(
    samples: Sequence[Sample], annotations: Path, faults: Faults
) -> tuple[dict[Path, Path], list[str]]:
    """Return the label file of each image that has one, and the names of the others."""
    label_by_image: dict[Path, Path] = {}
    image_by_label: dict[Path, Sample] = {}
    unlabeled = []
    for sample in samples:
        path = label_path(sample.path)
        if not is_regular_file(path):
            unlabeled.append(sample.id)
        elif path in image_by_label:
            faults.add(
                "images must differ in more than their suffix, or they share a label file; rename "
                "or remove the others",
                f"{image_by_label[path].id!r}, {sample.id!r}",
            )
        else:
            image_by_label[path] = sample
            label_by_image[sample.path] = path
    if not label_by_image:
        raise DataError(
            f"{unlabeled_line(annotations, unlabeled, 'a label file')}. For example, there is no "
            f"{one_line(label_path(samples[0].path))}. Lay the folder `labels` beside `images`."
        )
    return label_by_image, unlabeled


def _annotated(
    samples: Sequence[Sample], file_by_image: Mapping[Path, LabelFile], faults: Faults
) -> tuple[list[Sample], list[str], list[str]]:
    """Return the labeled images, and lines of rows without area and of images without any row."""
    labeled: list[Sample] = []
    without_area: list[str] = []
    rejected: list[str] = []
    for sample in samples:
        file = file_by_image.get(sample.path)
        if file is None:
            continue
        records, pointless = _read_boxes(sample.path, file.rows, faults)
        without_area += pointless
        reasons = [*file.rejected, *pointless]
        if records or not reasons:
            labeled.append(replace(sample, annotations=collect_annotations(records)))
        else:
            rejected.append(
                f"{file.where}: none of its {len(reasons)} rows can be used, so {sample.id!r} is "
                f"left out as not labeled; line {reasons[0].removeprefix(f'{file.where}:')}"
            )
    return labeled, without_area, rejected


def _read_boxes(
    image: Path, rows: Sequence[Row], faults: Faults
) -> tuple[list[BoxRecord], list[str]]:
    """Return the boxes of an image, and a line for each row that has no area there."""
    try:
        height, width = probe_size(image)
    except DataError as error:
        faults.add("images must be readable", str(error))
        return [], []
    records = []
    without_area = []
    for row in rows:
        x1, y1, x2, y2 = row.corners
        corners = (x1 * width, y1 * height, x2 * width, y2 * height)
        clipped = clip_corners(corners, (height, width))
        if clipped is None:
            without_area.append(f"{row.place}: no area inside the image of {width}x{height} pixels")
            continue
        x1, y1, x2, y2 = clipped
        area = (x2 - x1) * (y2 - y1)
        records.append(BoxRecord(corners=clipped, label=row.label, area=area, crowd=False))
    return records, without_area

"""Writes annotations in any of the formats."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from distildet.classes import ClassList
from distildet.data.image_record import ImageRecord
from distildet.data.write_coco import write_coco
from distildet.data.write_label_studio import LabelStudioOptions, write_label_studio
from distildet.data.write_voc import write_voc
from distildet.data.write_yolo import write_yolo
from distildet.errors import ConfigError, nearest_names


class AnnotationWriter(Protocol):
    """Writes one format; see `write_annotations`."""

    def __call__(
        self, folder: Path, records: Sequence[ImageRecord], classes: ClassList
    ) -> tuple[str, ...]:
        """Write a folder; return what is left out."""


def write_annotations(
    format_name: str,
    folder: Path,
    records: Sequence[ImageRecord],
    classes: ClassList,
    *,
    label_studio: LabelStudioOptions | None = None,
) -> tuple[str, ...]:
    """Write boxes in a format that is given by name.

    Args:
        format_name: coco, yolo, voc or label-studio.
        folder: New, or as an earlier call left it.
        records: What to write.
        classes: Of the labels.
        label_studio: Read for that format alone; None for its defaults.

    Returns:
        One line for each kind of thing for which the format has no place.

    Raises:
        ConfigError: There is no such format, or the folder has other things in it.
        DataError: The format cannot hold the names of images or classes.
        ResourceError: The disk is full; an older folder is intact.
    """
    writers: Mapping[str, AnnotationWriter] = {
        "coco": write_coco,
        "yolo": write_yolo,
        "voc": write_voc,
        "label-studio": partial(write_label_studio, options=label_studio or LabelStudioOptions()),
    }
    if format_name not in writers:
        raise ConfigError(
            f"No annotations can be written as {format_name!r}. "
            f"{nearest_names(format_name, writers)}"
        )
    return writers[format_name](folder, records, classes)

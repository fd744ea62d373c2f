"""Reads images with annotations in any of the formats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from distildet.data.coco import read_coco
from distildet.data.dataset import Dataset
from distildet.data.voc import read_voc
from distildet.data.yolo import read_yolo
from distildet.errors import ConfigError, nearest_names


class AnnotationReader(Protocol):
    """Reads one format; see `read_annotated`."""

    def __call__(
        self,
        images: Path,
        annotations: Path,
        *,
        listed: Path | None,
        root: Path | None,
        strict: bool,
    ) -> Dataset:
        """Read images and boxes."""


READERS: Mapping[str, AnnotationReader] = {"coco": read_coco, "voc": read_voc, "yolo": read_yolo}


def read_annotated(
    format_name: str,
    images: Path,
    annotations: Path,
    *,
    listed: Path | None = None,
    root: Path | None = None,
    strict: bool = False,
) -> Dataset:
    """Read images and boxes in a format that is given by name.

    Args:
        format_name: coco, voc or yolo.
        images: Folder of the images.
        annotations: Of coco the json file, of voc the folder of XML files, of yolo the data.yaml.
        listed: Text file of names, one a line, that restricts the images.
        root: What sample ids are relative to; `images` if None.
        strict: Refuse the annotations if a record would be left out.

    Returns:
        Samples, each with annotations (that may have no boxes).

    Raises:
        ConfigError: There is no such format.
        DataError: A file cannot be read, or has faults; all of them are listed.
    """
    if format_name not in READERS:
        raise ConfigError(
            f"There is no annotation format {format_name!r}. {nearest_names(format_name, READERS)}"
        )
    return READERS[format_name](images, annotations, listed=listed, root=root, strict=strict)

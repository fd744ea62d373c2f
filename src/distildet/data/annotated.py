"""Reads images in any of the formats, with their annotations or as if there were none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from distildet.data.coco import read_coco
from distildet.data.dataset import Dataset, Sample
from distildet.data.faults import Faults
from distildet.data.folder import read_folder
from distildet.data.headers import note_frames
from distildet.data.json_file import read_json
from distildet.data.names import (
    LEAVES_ROOT,
    is_inside,
    is_regular_file,
    read_list,
    relative_name,
    require_folder,
)
from distildet.data.voc import read_voc
from distildet.data.voc_names import listed_stems, name_without_suffix
from distildet.data.yolo import read_yolo
from distildet.errors import ConfigError, DataError, nearest_names


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


def read_unlabeled(
    format_name: str,
    images: Path,
    annotations: Path | None,
    *,
    listed: Path | None = None,
    root: Path | None = None,
) -> Dataset:
    """Read the images of a source as if nobody had annotated them.

    Of coco, the images are those that the json file names; nothing else in it is looked at. In all
    other formats they are those of the folder, whether they have labels or not.

    Args:
        format_name: coco, voc, yolo or folder.
        images: Folder of the images.
        annotations: Of coco the json file; of other formats it is not opened.
        listed: Text file of names, one a line, that restricts the images; of voc also names
            without suffix, which stand for every image of that name.
        root: What sample ids are relative to; `images` if None.

    Returns:
        Samples without annotations, without classes.

    Raises:
        DataError: A file or folder cannot be read, has no image, or names images that are not
            there; all faults are listed.
    """
    if format_name == "coco" and annotations is not None:
        return _read_named(images, annotations, listed=listed, root=root)
    if format_name == "voc" and listed is not None:
        return _read_stems(images, listed, root=root)
    return read_folder(images, listed=listed, root=root)


def _read_stems(images: Path, listed: Path, *, root: Path | None) -> Dataset:
    """Read the images of a list such as ImageSets/Main/train.txt."""
    found = read_folder(images)
    paths_by_stem: dict[str, list[Path]] = {}
    for sample in found.samples:
        paths_by_stem.setdefault(name_without_suffix(sample.id), []).append(sample.path)
    faults = Faults(listed)
    stems = listed_stems(listed, paths_by_stem, faults)
    faults.raise_if_any()
    return _samples([path for stem in stems for path in paths_by_stem[stem]], images, root)


def _read_named(
    images: Path, annotations: Path, *, listed: Path | None, root: Path | None
) -> Dataset:
    """Read the images that a COCO file names."""
    require_folder(images)
    faults = Faults(annotations)
    names = _file_names(annotations, faults)
    if listed is not None:
        chosen = set(read_list(listed))
        for name in sorted(chosen - set(names)):
            faults.add(f"images listed in {listed} must have a record, but are missing", repr(name))
        names = [name for name in names if name in chosen]
    for name in names:
        if not is_regular_file(images / name):
            faults.add(f"image files must be in {images}, but are missing", repr(name))
    faults.raise_if_any()
    return _samples([images / name for name in names], images, root)


def _file_names(annotations: Path, faults: Faults) -> list[str]:
    """Return the file names of a COCO file, each once, after noting those that are none."""
    document = read_json(annotations)
    records: Any = document.get("images") if isinstance(document, dict) else None
    if not isinstance(records, list) or not records:
        raise DataError(
            f"{annotations}: 'images' is no list with records. Accepted: a COCO file; of unlabeled "
            "images it needs only 'images', each with 'file_name'."
        )
    names: dict[str, None] = {}
    for record in records:
        name = record.get("file_name") if isinstance(record, dict) else None
        if isinstance(name, str) and is_inside(name):
            names[Path(name).as_posix()] = None
        else:
            faults.add(f"images: {LEAVES_ROOT}", f"found {record!r:.120}")
    return list(names)


def _samples(paths: list[Path], images: Path, root: Path | None) -> Dataset:
    base = images if root is None else root
    return Dataset(
        samples=tuple(Sample(id=relative_name(path, base), path=path) for path in paths),
        notes=note_frames(images, paths),
    )

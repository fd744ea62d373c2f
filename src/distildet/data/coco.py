"""Reads annotations in the COCO json format."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distildet.classes import ClassList
from distildet.data.boxes import collect_annotations
from distildet.data.coco_boxes import CocoImage, Record, is_number, read_boxes
from distildet.data.dataset import Dataset, Sample
from distildet.data.faults import Faults
from distildet.data.headers import note_frames, refuse_other_sizes
from distildet.data.json_file import read_json
from distildet.data.names import (
    LEAVES_ROOT,
    is_inside,
    is_regular_file,
    read_list,
    relative_name,
    require_folder,
)
from distildet.errors import DataError


def read_coco(
    images: Path,
    annotations: Path,
    *,
    listed: Path | None = None,
    root: Path | None = None,
    strict: bool = False,
) -> Dataset:
    """Read images and boxes from a COCO json file.

    Labels follow the order of the category ids. A box is `bbox` or, where that is missing, what
    encloses the polygons of `segmentation`. Boxes are clipped to the image; a box that has no area
    then is left out and noted in `dropped`. An image without annotations is background.

    Args:
        images: Folder that the file names are relative to.
        annotations: The json file, with the lists `images`, `annotations` and `categories`.
        listed: Text file of file names, one a line, that restricts the images.
        root: What sample ids are relative to; `images` if None.
        strict: Refuse the file if a box would be left out.

    Returns:
        Samples in the order of the json file, each with annotations (that may have no boxes).

    Raises:
        DataError: A file cannot be read, or records are contradictory, incomplete, name images
            that are not there, or seem to have boxes of another convention; all faults are listed,
            each kind with its first five records.
    """
    require_folder(images)
    document = coco_sections(annotations, read_json(annotations))
    faults = Faults(annotations)
    class_list, label_by_category = read_categories(document["categories"], faults)
    image_by_id = read_images(document["images"], images, faults)
    _refuse_dangling(document, label_by_category, faults)
    boxes_by_image, dropped = read_boxes(
        document["annotations"], image_by_id, label_by_category, faults
    )
    kept = _restrict(image_by_id, listed, faults)
    for image in kept.values():
        if not is_regular_file(image.path):
            faults.add(f"image files must be in {images}, but are missing", repr(image.name))
    _refuse_dropped(dropped, faults, strict=strict)
    faults.raise_if_any()
    refuse_other_sizes(annotations, {image.path: image.size for image in kept.values()})
    base = images if root is None else root
    samples = tuple(
        Sample(
            id=relative_name(image.path, base),
            path=image.path,
            annotations=collect_annotations(boxes_by_image[image_id]),
        )
        for image_id, image in kept.items()
    )
    lines = tuple(f"{annotations}: {line}" for line in dropped)
    return Dataset(
        samples=samples,
        classes=class_list,
        dropped=lines,
        notes=note_frames(annotations, (sample.path for sample in samples)),
    )


def coco_sections(
    path: Path, document: Any, names: Sequence[str] = ("images", "annotations", "categories")
) -> Mapping[str, Sequence[Record]]:
    """Return the lists of a COCO file.

    Args:
        path: Of the file, for messages.
        document: Its content.
        names: Of the lists that it must have.

    Raises:
        DataError: One is missing, holds something else than objects, or may not be empty.
    """
    accepted = f"A COCO file is an object with the lists {_listed(names)}."
    if not isinstance(document, dict):
        raise DataError(f"{path}: found a {type(document).__name__} at the top level. {accepted}")
    for name in names:
        if not isinstance(document.get(name), list):
            found = "is missing" if name not in document else "is not a list"
            raise DataError(f"{path}: {name!r} {found}. {accepted}")
        for position, record in enumerate(document[name]):
            if not isinstance(record, dict):
                raise DataError(f"{path}: {name}[{position}] is {record!r:.80}, not an object.")
    for name in ("images", "categories"):
        if not document[name]:
            raise DataError(f"{path}: {name!r} is an empty list. At least one record is needed.")
    return document


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"


def _take_id(section: str, record: Record, taken: Mapping[int, Any], faults: Faults) -> int | None:
    """Return the id of a record, or None after noting why it cannot be used."""
    record_id = record.get("id")
    if not isinstance(record_id, int) or isinstance(record_id, bool):
        faults.add(f"{section}: 'id' must be an integer", f"found {record_id!r:.80}")
        return None
    if record_id in taken:
        faults.add(
            f"{section}: 'id' must be unique, but occurs again; give each record an id of its own, "
            "or remove the record that is there twice",
            str(record_id),
        )
        return None
    return record_id


def read_categories(
    records: Sequence[Record], faults: Faults
) -> tuple[ClassList, Mapping[int, int]]:
    """Return the classes in the order of the category ids, and category id -> label.

    Args:
        records: The list `categories` of a COCO file.
        faults: Told about records that cannot be used.

    Raises:
        DataError: There are any.
    """
    name_by_id: dict[int, str] = {}
    for record in records:
        category_id = _take_id("categories", record, name_by_id, faults)
        name = record.get("name")
        if not isinstance(name, str) or not name.strip():
            faults.add(
                "categories: 'name' must be a text that is not empty",
                f"category {category_id} has {name!r:.80}",
            )
        elif name in name_by_id.values():
            faults.add(
                "categories: 'name' must be unique, but occurs again; rename one, or give its "
                "annotations the id of the other and remove it",
                repr(name),
            )
        elif category_id is not None:
            name_by_id[category_id] = name
    # Without sound class names nothing below can be judged.
    faults.raise_if_any()
    ordered = sorted(name_by_id)
    class_list = ClassList(tuple(name_by_id[category_id] for category_id in ordered))
    return class_list, {category_id: label for label, category_id in enumerate(ordered)}


def read_images(records: Sequence[Record], folder: Path, faults: Faults) -> dict[int, CocoImage]:
    """Return image id -> image, without those that cannot be used.

    Args:
        records: The list `images` of a COCO file.
        folder: That the file names are relative to.
        faults: Told about records that cannot be used.
    """
    image_by_id: dict[int, CocoImage] = {}
    names: set[str] = set()
    for record in records:
        image_id = _take_id("images", record, image_by_id, faults)
        name, size = record.get("file_name"), (record.get("height"), record.get("width"))
        if not isinstance(name, str) or not is_inside(name):
            faults.add(f"images: {LEAVES_ROOT}", f"image {image_id} has {name!r:.120}")
        elif Path(name).as_posix() in names:
            faults.add(
                "images: 'file_name' must be unique, but occurs again; keep one record of each "
                "image and give all its annotations that id",
                repr(name),
            )
        elif not all(_is_count(side) for side in size):
            faults.add(
                "images: 'height' and 'width' must be whole numbers above 0",
                f"image {image_id} has {size!r:.80}",
            )
        elif image_id is not None:
            name = Path(name).as_posix()
            names.add(name)
            image_by_id[image_id] = CocoImage(
                name=name, path=folder / name, size=(int(size[0] or 0), int(size[1] or 0))
            )
    return image_by_id


def _is_count(value: Any) -> bool:
    # Some tools write 640.0 for 640. JSON also has integers beyond float64.
    return is_number(value) and 0 < value <= sys.float_info.max and float(value).is_integer()


def _refuse_dangling(
    document: Mapping[str, Sequence[Record]], label_by_category: Mapping[int, int], faults: Faults
) -> None:
    """Note annotations whose own id is taken or whose image or category does not exist."""
    taken: dict[int, None] = {}
    # By repr, since an id of a wrong type need not be hashable; images noted as faulty count as
    # declared, or one fault would be told many times.
    declared = {repr(record.get("id")) for record in document["images"]}
    # So is true, which Python takes for 1.
    categories = {repr(category_id) for category_id in label_by_category}
    for record in document["annotations"]:
        annotation_id = _take_id("annotations", record, taken, faults)
        if annotation_id is not None:
            taken[annotation_id] = None
        where = f"annotation {annotation_id}"
        image_id, category_id = record.get("image_id"), record.get("category_id")
        if repr(image_id) not in declared:
            faults.add(
                "annotations: 'image_id' must be the id of an image",
                f"{where} has {image_id!r:.80}",
            )
        if repr(category_id) not in categories:
            faults.add(
                "annotations: 'category_id' must be the id of a category",
                f"{where} has {category_id!r:.80}",
            )


def _restrict(
    image_by_id: Mapping[int, CocoImage], listed: Path | None, faults: Faults
) -> Mapping[int, CocoImage]:
    """Return the images that are listed, or all if there is no list."""
    if listed is None:
        return image_by_id
    names = set(read_list(listed))
    for name in sorted(names - {image.name for image in image_by_id.values()}):
        faults.add(f"images listed in {listed} must have a record, but are missing", repr(name))
    return {key: image for key, image in image_by_id.items() if image.name in names}


def _refuse_dropped(dropped: Sequence[str], faults: Faults, *, strict: bool) -> None:
    if strict:
        for line in dropped:
            faults.add(
                "boxes must have an area inside their image; correct them, or read the file "
                "without strict to leave them out",
                line,
            )

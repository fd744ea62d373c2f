"""What the columns of a stock detector's class layer stand for."""

from collections.abc import Sequence
from pathlib import Path

from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from distildet.classes import ClassList
from distildet.errors import WeightsError

_PLACEHOLDERS = frozenset({"__background__", "N/A"})


def coco_columns() -> dict[int, str]:
    """Return column -> name of COCO's 80 classes.

    torchvision's files for COCO have a column for each category id from 0 to 90: column 0 is the
    background, and ten ids were never given to a class.
    """
    categories: list[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return {i: name for i, name in enumerate(categories) if name not in _PLACEHOLDERS}


def is_coco(num_columns: int) -> bool:
    """Return whether a class layer has as many columns as torchvision's files for COCO."""
    return num_columns == len(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])


def class_columns(
    path: Path, num_columns: int, classes: ClassList | None, *, has_background: bool
) -> dict[int, str]:
    """Return column -> class name of all columns that stand for a class.

    Args:
        path: Of the file, for messages.
        num_columns: Of its class layer.
        classes: Their names; None for torchvision's files for COCO.
        has_background: Whether column 0 is the background, as in Faster R-CNN. In RetinaNet and
            FCOS it may be a class, or unused because labels were counted from 1.

    Raises:
        WeightsError: The names cannot be told, or are not as many as the columns.
    """
    if classes is None and is_coco(num_columns):
        return coco_columns()
    accepted = [num_columns - 1] if has_background else [num_columns, num_columns - 1]
    counts = " or ".join(map(str, accepted))
    meaning = "the first is the background" if has_background else _FIRST_MAY_BE_UNUSED
    if classes is None:
        raise WeightsError(
            f"{path}: its class layer has {num_columns} columns ({meaning}), and their names are "
            f"not in the file. Give `classes`, a list of {counts} names, and keep the result as a "
            "bundle: distildet.save_detector(distildet.load_detector(path, classes=[...]), folder)."
        )
    if len(classes) not in accepted:
        coco = " Leave `classes` out for COCO's names." if is_coco(num_columns) else ""
        raise WeightsError(
            f"{path}: `classes` has {len(classes)} names, but the class layer has {num_columns} "
            f"columns ({meaning}). Accepted: {counts} names.{coco}"
        )
    first = num_columns - len(classes)
    return {first + i: name for i, name in enumerate(classes)}


def unused_columns(num_columns: int, used: Sequence[int]) -> tuple[int, ...]:
    """Return the columns that stand for no class, counted without background (column 0)."""
    return tuple(column - 1 for column in range(1, num_columns) if column not in set(used))


_FIRST_MAY_BE_UNUSED = "the first is unused where labels were counted from 1"

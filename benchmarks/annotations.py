"""COCO files made from those of the photographs: some of their classes, or a half of their frames.

Photographs stay where they are; what is made is under `runs/annotations/`, named by the set:

    [annotations.fod-first-classes-train]
    source = "fod/bright_train.json"      # below the folder of the photographs
    classes = ["Bolt", "Nut"]             # without: all; images keep their place, without boxes too
    half = "first"                        # or "last", of the frames of each class; without: all
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Half = Literal["first", "last"]


def derived(
    document: Mapping[str, Any], *, classes: Sequence[str] = (), half: Half | None = None
) -> dict[str, Any]:
    """Return a COCO document with a part of another's classes or images.

    Args:
        document: With `images`, `annotations` and `categories`.
        classes: Names to keep with their boxes; none for all. Images without such a box are kept:
            for who learns these classes they are background.
        half: Of the frames of each class, by file name, the first or the last; an odd one is among
            the last. An image is of the class of its first box, or of none.

    Raises:
        ValueError: A class is not there.
    """
    categories = [one for one in document["categories"] if not classes or one["name"] in classes]
    missing = set(classes) - {one["name"] for one in categories}
    if missing:
        raise ValueError(f"There are no classes {', '.join(sorted(missing))}.")
    images = _half(document, half) if half else list(document["images"])
    kept = {one["id"] for one in images}, {one["id"] for one in categories}
    return {
        **document,
        "images": images,
        "categories": categories,
        "annotations": [
            one
            for one in document["annotations"]
            if one["image_id"] in kept[0] and one["category_id"] in kept[1]
        ],
    }


def _half(document: Mapping[str, Any], half: Half) -> list[dict[str, Any]]:
    class_of: dict[int, int] = {}
    for one in document["annotations"]:
        class_of.setdefault(one["image_id"], one["category_id"])
    by_class: dict[int | None, list[dict[str, Any]]] = {}
    for image in sorted(document["images"], key=lambda one: str(one["file_name"])):
        by_class.setdefault(class_of.get(image["id"]), []).append(image)
    parts = []
    for images in by_class.values():
        middle = len(images) // 2
        parts += images[:middle] if half == "first" else images[middle:]
    return sorted(parts, key=lambda one: str(one["file_name"]))

"""Pseudo labels as an ordinary COCO file with scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distildet import artefacts
from distildet.classes import ClassList
from distildet.pseudolabels.store import StoredLabels


def coco_document(
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    *,
    thresholds: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return labels as a COCO document.

    Args:
        stored: Labels by sample id, which becomes the `file_name`.
        classes: Of the stored labels; category ids count from 1 in this order.
        thresholds: Class name -> lowest score exported; None exports everything.

    Returns:
        A document with images, annotations (xywh pixels, `score`), and categories.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, (name, entry) in enumerate(stored.items(), start=1):
        height, width = entry.image_size
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        found = entry.detections
        for (x1, y1, x2, y2), score, label in zip(
            found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True
        ):
            if thresholds is None or score >= thresholds[classes[label]]:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                        "score": score,
                    }
                )
    categories = [{"id": i, "name": name} for i, name in enumerate(classes, start=1)]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_coco(
    path: Path,
    stored: Mapping[str, StoredLabels],
    classes: ClassList,
    *,
    thresholds: Mapping[str, float] | None = None,
) -> None:
    """Write labels as a COCO file, atomically; arguments as for `coco_document`."""
    artefacts.write_json(path, coco_document(stored, classes, thresholds=thresholds))

"""A dataset and its detections as the in-memory objects of the COCO evaluator."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hotcoco import COCO
from numpy.typing import NDArray

from distildet.artefacts import fingerprint_bytes
from distildet.classes import ClassList
from distildet.data.dataset import Annotations, Dataset
from distildet.errors import DataError
from distildet.structures import Detections


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoInputs:
    """Ground truth and detections of the annotated images of a dataset.

    The category id of a class is its label + 1, since pycocotools takes an id of 0 for "none".

    Args:
        classes: Names of the labels.
        ground_truth: Images in the order of the dataset, ids from 1.
        detections: Detections on the same images.
        fingerprint: Content hash of image ids, class names and annotations.
    """

    classes: ClassList
    ground_truth: COCO
    detections: COCO
    fingerprint: str


def coco_inputs(dataset: Dataset, detections: Mapping[str, Detections]) -> CocoInputs:
    """Bring a dataset and detections into the form that the COCO evaluator takes.

    Args:
        dataset: Samples without annotations are left out: nobody looked at them.
        detections: Results in the image frame by sample id; an empty result is an image on which
            nothing was found. Results for other images are not used.

    Raises:
        DataError: The dataset has no classes; an annotated sample has no detections; a detection
            has a label that is no class, or a box or score that is not finite.
    """
    if dataset.classes is None:
        raise DataError(
            f"The dataset of {len(dataset)} images has no class list, so there is nothing to "
            "evaluate against. Give a dataset with annotations."
        )
    annotated = [
        (sample.id, sample.annotations)
        for sample in dataset.samples
        if sample.annotations is not None
    ]
    _check_ids([image for image, _ in annotated], detections)
    ground_truth = _ground_truth(dataset.classes, [drawn for _, drawn in annotated])
    # The leading empty block gives a dataset without images the right number of columns.
    rows = [np.zeros((0, 7))]
    for index, (image, _) in enumerate(annotated):
        _check_values(image, detections[image], dataset.classes)
        rows.append(_detection_rows(index + 1, detections[image]))
    return CocoInputs(
        classes=dataset.classes,
        ground_truth=ground_truth,
        detections=ground_truth.load_res(np.concatenate(rows)),
        fingerprint=_fingerprint(dataset.classes, annotated),
    )


def _check_ids(images: list[str], detections: Mapping[str, Detections]) -> None:
    missing = [image for image in images if image not in detections]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} annotated images have no detections, the first is "
            f"{missing[0]!r}. Every annotated image must have an entry; give an empty one where "
            "nothing was found."
        )


def _check_values(image: str, found: Detections, classes: ClassList) -> None:
    outside = found.labels[(found.labels < 0) | (found.labels >= len(classes))]
    if len(outside):
        raise DataError(
            f"{image}: a detection has label {int(outside[0])}, but there are {len(classes)} "
            f"classes (labels 0 to {len(classes) - 1}). Map the labels to the classes of the "
            "dataset first."
        )
    if not (found.boxes.isfinite().all() and found.scores.isfinite().all()):
        raise DataError(
            f"{image}: a detection has a box or score that is not finite. Only finite numbers can "
            "be ranked and matched; check the weights of the detector for NaN."
        )


def _ground_truth(classes: ClassList, annotations: list[Annotations]) -> COCO:
    nothing = Annotations(
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0),
        crowd=np.zeros(0, np.bool_),
    )
    all_drawn = [nothing, *annotations]
    return COCO.from_arrays(
        images=[{"id": index + 1} for index in range(len(annotations))],
        categories=[{"id": label + 1, "name": name} for label, name in enumerate(classes)],
        image_ids=np.repeat(np.arange(len(all_drawn)), [len(drawn.labels) for drawn in all_drawn]),
        category_ids=np.concatenate([drawn.labels for drawn in all_drawn]) + 1,
        boxes=_xywh(np.concatenate([drawn.boxes for drawn in all_drawn])),
        area=np.concatenate([drawn.areas for drawn in all_drawn]),
        iscrowd=np.concatenate([drawn.crowd for drawn in all_drawn]),
    )


def _detection_rows(image_id: int, found: Detections) -> NDArray[np.float64]:
    # float64 before subtracting: width and height must not be rounded to float32 once more.
    columns = (
        np.full((len(found), 1), float(image_id)),
        _xywh(found.boxes.detach().cpu().double().numpy()),
        found.scores.detach().cpu().double().numpy()[:, None],
        found.labels.cpu().double().numpy()[:, None] + 1,
    )
    return np.concatenate(columns, axis=1)  # [n 7]


def _xywh(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]], axis=1)


def _fingerprint(classes: ClassList, annotated: list[tuple[str, Annotations]]) -> str:
    parts = [repr(classes.names).encode()]
    for image, drawn in annotated:
        parts.append(repr((image, len(drawn.labels))).encode())
        parts += [drawn.boxes.tobytes(), drawn.labels.tobytes()]
        parts += [drawn.areas.tobytes(), drawn.crowd.tobytes()]
    return fingerprint_bytes(b"".join(parts))

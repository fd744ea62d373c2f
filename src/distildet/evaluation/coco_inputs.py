"""A dataset and its detections as the in-memory objects of the COCO evaluator."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
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
    joined = _join([detections[image] for image, _ in annotated])
    _check_values([image for image, _ in annotated], joined, dataset.classes)
    return CocoInputs(
        classes=dataset.classes,
        ground_truth=ground_truth,
        detections=ground_truth.load_res(_detection_rows(joined)),
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Joined:
    """The detections of all images behind each other.

    Args:
        image: [n] int64, index of the image.
        boxes: [n 4] float64, xyxy pixels of the image frame.
        scores: [n] float64.
        labels: [n] int64.
    """

    image: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]


def _join(found: list[Detections]) -> _Joined:
    """Join all detections at once: a step of numpy for each image would cost more than COCO's."""
    # The leading empty tensors give a dataset without images the right number of columns.
    boxes = torch.cat([torch.zeros(0, 4), *(one.boxes.detach().cpu() for one in found)])
    scores = torch.cat([torch.zeros(0), *(one.scores.detach().cpu() for one in found)])
    labels = torch.cat([torch.zeros(0, dtype=torch.int64), *(one.labels.cpu() for one in found)])
    return _Joined(
        image=np.repeat(np.arange(len(found)), [one.scores.shape[0] for one in found]),
        boxes=boxes.double().numpy(),
        scores=scores.double().numpy(),
        labels=labels.numpy(),
    )


def _check_values(images: list[str], joined: _Joined, classes: ClassList) -> None:
    is_outside = (joined.labels < 0) | (joined.labels >= len(classes))
    if is_outside.any():
        row = int(is_outside.argmax())
        raise DataError(
            f"{images[joined.image[row]]}: a detection has label {joined.labels[row]}, but there "
            f"are {len(classes)} classes (labels 0 to {len(classes) - 1}). Map the labels to the "
            "classes of the dataset first."
        )
    is_finite = np.isfinite(joined.boxes).all(axis=1) & np.isfinite(joined.scores)
    if not is_finite.all():
        raise DataError(
            f"{images[joined.image[is_finite.argmin()]]}: a detection has a box or score that is "
            "not finite. Only finite numbers can be ranked and matched; check the weights of the "
            "detector for NaN."
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


def _detection_rows(joined: _Joined) -> NDArray[np.float64]:
    columns = (
        joined.image[:, None] + 1.0,
        # In float64: width and height must not be rounded to float32 once more.
        _xywh(joined.boxes),
        joined.scores[:, None],
        joined.labels[:, None] + 1.0,
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

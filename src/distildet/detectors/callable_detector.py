"""A teacher that is a function in Python, such as a model of another library."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from distildet import artefacts
from distildet.classes import ClassList
from distildet.detectors.black_box import MAX_DETECTIONS, BlackBoxDetector, nothing, ranked
from distildet.errors import ConfigError, DataError
from distildet.ops.frames import to_image_frame
from distildet.structures import Detections, ImageBatch

RgbImage: TypeAlias = NDArray[np.uint8]
DetectFunction: TypeAlias = Callable[[list[RgbImage]], Sequence[Any]]

_ACCEPTED = (
    "Accepted for each image: (boxes [n 4], scores [n], labels [n]), a mapping with these names, "
    "or supervision.Detections"
)
_NAMES = ("boxes", "scores", "labels")
# What is said of the cost of a detector is about a picture of this side, where none is stated.
_USUAL_SIDE = 640


class CallableDetector(BlackBoxDetector):
    """A detector that a function computes.

    The function gets a list of images, arrays [h w 3] uint8 RGB that it must not change, upright
    and at their own size or scaled to `image_size`. It returns as many results: for each image
    boxes [n 4] xyxy in pixels of the array that it got, scores [n] 0..1 and labels [n], as arrays,
    tensors or lists, in a tuple of three or a mapping of these names; or `supervision.Detections`.

    Args:
        function: Images -> results.
        classes: Names of the labels.
        name: What messages and records call it.
        version: Changes whenever its answers do: weights, thresholds, code. The code of a function
            cannot be compared, so that work is continued or begun anew by name and version.
        image_size: Longer side in pixels of the images that it gets; None gives them as they are,
            which for large photographs takes memory for a batch of them.

    Raises:
        ConfigError: name or version is empty, or image_size is below 1.
    """

    def __init__(
        self,
        function: DetectFunction,
        *,
        classes: ClassList | Sequence[str],
        name: str,
        version: str,
        image_size: int | None = None,
    ) -> None:
        for key, text in (("name", name), ("version", version)):
            if not text.strip():
                raise ConfigError(
                    f"CallableDetector: {key} is empty. Give a text: what was labeled by another "
                    "name or version is never mixed with this."
                )
        if image_size is not None and image_size < 1:
            raise ConfigError(
                f"CallableDetector: image_size is {image_size}. Accepted: 1 or more, or None."
            )
        super().__init__(
            family="callable",
            classes=classes if isinstance(classes, ClassList) else ClassList(tuple(classes)),
            image_size=image_size or _USUAL_SIDE,
            frame="original" if image_size is None else None,
            options={"name": name, "version": version, "image_size": image_size},
        )
        self._function = function

    @property
    def name(self) -> str:
        """Return the given name and version."""
        return f"{self.spec.options['name']} {self.spec.options['version']}"

    @property
    def fingerprint(self) -> str:
        """Return a hash of name, version, image size and classes."""
        return artefacts.fingerprint_json(
            {"callable": dict(self.spec.options), "classes": list(self.spec.classes)}
        )

    def detect(self, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return one result an image, in the image frame, best score first.

        Args:
            batch: Un-normalised images, as the spec's `view_size` asks for them.

        Raises:
            DataError: The function returns something else than it shall; the image is named.
        """
        pixels = (batch.pixels.cpu() * 255).round().to(torch.uint8)
        images = [
            np.ascontiguousarray(pixels[i, :, :height, :width].permute(1, 2, 0).numpy())
            for i, (height, width) in enumerate(batch.sizes.tolist())
        ]
        results = self._function(images)
        if not isinstance(results, Sequence) or len(results) != len(images):
            found = f"a {type(results).__name__}"
            if isinstance(results, Sequence):
                found = f"{len(results)} results"
            raise DataError(
                f"{self.name}: returned {found} for {len(images)} images "
                f"({', '.join(batch.image_ids[:3])}...). Return a list with one for each image. "
                f"{_ACCEPTED}."
            )
        return tuple(self._detections(result, batch, i) for i, result in enumerate(results))

    def _detections(self, result: Any, batch: ImageBatch, index: int) -> Detections:
        where = f"{self.name}: for image {batch.image_ids[index]!r}"
        boxes, scores, labels = _tensors(result, where)
        if boxes.numel() == 0:  # of whatever shape lists without boxes become
            boxes = boxes.reshape(0, 4)
        if boxes.dim() != 2 or boxes.shape[1] != 4:
            raise DataError(f"{where} boxes are {list(boxes.shape)}. Accepted: [n 4], xyxy pixels.")
        for name, found in (("scores", scores), ("labels", labels)):
            if found.shape != boxes.shape[:1]:
                raise DataError(
                    f"{where} {name} are {list(found.shape)} and boxes {list(boxes.shape)}. "
                    f"Accepted: one of {name} for each box."
                )
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            return nothing(is_finite=False)
        count = len(self.spec.classes)
        _refuse(scores, (scores < 0) | (scores > 1), f"{where} a score is", "0..1")
        is_label = (labels >= 0) & (labels < count) & (labels == labels.round())
        _refuse(labels, ~is_label, f"{where} a label is", f"whole numbers 0..{count - 1}")
        is_turned = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
        if is_turned.any():
            raise DataError(
                f"{where} a box is {boxes[is_turned][0].tolist()}, which ends before it begins. "
                "Accepted: x1 y1 x2 y2 in pixels."
            )
        height, width = batch.sizes[index].tolist()
        return ranked(
            to_image_frame(clip_boxes_to_image(boxes, (height, width)), batch, index),
            scores,
            labels,
            most=MAX_DETECTIONS,
        )


def _tensors(result: Any, where: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, scores and labels of what a function returned for an image, float64."""
    parts = _parts(result, where)
    tensors = []
    for name, value in zip(_NAMES, parts, strict=True):
        if value is None:
            raise DataError(f"{where} there are no {name}. {_ACCEPTED}.")
        try:
            array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
            tensors.append(torch.from_numpy(np.array(array, dtype=np.float64)))
        except (TypeError, ValueError) as error:
            raise DataError(f"{where} {name} are no numbers ({error}). {_ACCEPTED}.") from error
    boxes, scores, labels = tensors
    return boxes, scores, labels


def _parts(result: Any, where: str) -> Sequence[Any]:
    # Whoever returns such detections has loaded the library already.
    supervision = sys.modules.get("supervision")
    if supervision is not None and isinstance(result, supervision.Detections):
        return result.xyxy, result.confidence, result.class_id
    if isinstance(result, dict) and set(_NAMES) <= set(result):
        return [result[name] for name in _NAMES]
    if isinstance(result, (tuple, list)) and len(result) == len(_NAMES):
        return result
    raise DataError(f"{where} a {type(result).__name__} was returned. {_ACCEPTED}.")


def _refuse(values: Tensor, is_wrong: Tensor, what: str, accepted: str) -> None:
    if is_wrong.any():
        raise DataError(f"{what} {values[is_wrong][0].item():g}. Accepted: {accepted}.")

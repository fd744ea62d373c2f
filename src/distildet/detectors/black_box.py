"""Detectors of which nothing is known but the boxes that they return."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from distildet.classes import ClassList
from distildet.detectors.base import Detector
from distildet.ops.precision import full_precision
from distildet.specs import DetectorSpec, InputFrame
from distildet.structures import DETECTIONS, Detections, DetectorOutput, ImageBatch, Targets

MAX_DETECTIONS = 1000
"""Best boxes of an image that are kept of a source that states no number of its own."""


class BlackBoxDetector(Detector):
    """A detector without weights, features or losses of ours.

    It serves whatever needs boxes alone, such as pseudo labels, evaluation and prediction.

    Args:
        family: What kind it is, as messages call it.
        classes: Names of its labels.
        image_size: Longer side in pixels of the images that it looks at.
        frame: How it wants whole images scaled where `image_size` does not say it.
        options: What its answers depend on; JSON values.
    """

    def __init__(
        self,
        *,
        family: str,
        classes: ClassList,
        image_size: int,
        frame: InputFrame | Literal["original"] | None = None,
        options: Mapping[str, Any],
    ) -> None:
        super().__init__(
            DetectorSpec(
                family=family,
                classes=classes,
                levels=(),
                head="none",
                parts=frozenset({DETECTIONS}),
                image_size=image_size,
                mean=(0.0, 0.0, 0.0),
                std=(1.0, 1.0, 1.0),
                licence="not known",
                options=options,
                frame=frame,
            )
        )

    @property
    @abstractmethod
    def name(self) -> str:
        """What people know it by, such as the path of its file."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of all that its answers depend on but the images."""

    @abstractmethod
    def detect(self, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return one result an image, in the image frame, best score first.

        Args:
            batch: Un-normalised images.
        """

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets] | None = None,  # noqa: ARG002 - the contract of a detector
        *,
        want: Iterable[str],
        given: Mapping[str, Any] | None = None,  # noqa: ARG002 - likewise
    ) -> DetectorOutput:
        """Return the detections of a batch.

        Args:
            batch: Un-normalised images.
            targets: Not used.
            want: Nothing but "detections".
            given: Not used.

        Raises:
            MissingPartError: Another part is wanted.
        """
        if DETECTIONS not in self.wanted(want):
            return DetectorOutput()
        with full_precision(batch.pixels.device):
            return DetectorOutput(detections=self.detect(batch))

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return no parameters: none are ours."""
        return []

    def class_layers(self) -> tuple[str, ...]:
        """Return no names: no layers are ours."""
        return ()


def ranked(boxes: Tensor, scores: Tensor, labels: Tensor, *, most: int) -> Detections:
    """Return the boxes that have an area, best score first; equal ones keep their order.

    Args:
        boxes: [n 4], xyxy pixels of the image frame, inside the image.
        scores: [n], 0..1.
        labels: [n], 0-based.
        most: Detections that are kept.
    """
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # [n]
    order = scores[has_area].argsort(descending=True, stable=True)[:most]
    return Detections(
        boxes=boxes[has_area][order].float(),
        scores=scores[has_area][order].float(),
        labels=labels[has_area][order].long(),
    )


def nothing(*, is_finite: bool = True, fault: str | None = None) -> Detections:
    """Return a result without boxes.

    Args:
        is_finite: See `Detections`.
        fault: See `Detections`.
    """
    return Detections(
        boxes=torch.zeros(0, 4),
        scores=torch.zeros(0),
        labels=torch.zeros(0, dtype=torch.int64),
        is_finite=is_finite,
        fault=fault,
    )

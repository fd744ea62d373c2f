"""One-stage detectors: the forward pass that every dense head shares."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distildet.classes import ClassList
from distildet.detectors.pyramid_detector import PyramidDetector, wanted_features
from distildet.ops.precision import full_precision
from distildet.specs import ObjectSize
from distildet.structures import (
    DENSE,
    DETECTIONS,
    FEATURES_BACKBONE,
    FEATURES_HEAD,
    FEATURES_NECK,
    LOSSES,
    DensePrediction,
    Detections,
    DetectorOutput,
    ImageBatch,
    Targets,
)


class DenseDetector(PyramidDetector):
    """A detector whose head predicts at every location of every level.

    Args:
        family: Registered name.
        classes: What it detects.
        options: As `stored_options` returns them.
        pretrained: Backbone weights: true (the library's download), a file, or false.
        image_size: Longer side in pixels of the images it sees.
        object_side: Size of the objects that are looked for on a level, in its strides.
        object_size: What of a box that is.
    """

    def __init__(
        self,
        *,
        family: str,
        classes: ClassList,
        options: Mapping[str, Any],
        pretrained: bool | Path,
        image_size: int,
        object_side: float,
        object_size: ObjectSize = "root of area",
    ) -> None:
        super().__init__(
            family=family,
            classes=classes,
            options=options,
            pretrained=pretrained,
            image_size=image_size,
            head="dense",
            parts={FEATURES_BACKBONE, FEATURES_NECK, FEATURES_HEAD, DENSE, LOSSES, DETECTIONS},
            object_side=object_side,
            object_size=object_size,
        )

    @abstractmethod
    def predict_dense(
        self, features: dict[str, Tensor], padded_size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], DensePrediction]:
        """Return the tower features by name and the predictions.

        Args:
            features: Of the neck, level name -> [b c h w].
            padded_size: (height, width) of the batch.
        """

    @abstractmethod
    def match(self, priors: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
        """Return what each prior is to learn from.

        Args:
            priors: Per level [n 4], as in `DensePrediction`.
            targets: One an image, batch frame.

        Returns:
            [b n] int64 over all levels: index of the box, BACKGROUND, or LEFT_OUT.
        """

    @abstractmethod
    def compute_losses(
        self, dense: DensePrediction, targets: Sequence[Targets], matched: Tensor
    ) -> dict[str, Tensor]:
        """Return the named training losses, float32 scalars.

        Args:
            dense: The predictions.
            targets: One an image, batch frame.
            matched: [b n], as `match` returns it.
        """

    @abstractmethod
    def detect(self, dense: DensePrediction, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return the detections of each image, in the image frame."""

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets] | None = None,
        *,
        want: Iterable[str],
        given: Mapping[str, Any] | None = None,  # noqa: ARG002 - a dense head takes nothing
    ) -> DetectorOutput:
        """Compute the wanted parts in one pass; see `Detector.forward`."""
        wanted = self.wanted(want)
        if LOSSES in wanted and targets is None:
            raise ValueError("The part 'losses' needs targets, one for each image of the batch.")
        pixels = self.normalise(batch)
        backbone_features = self.backbone(pixels)
        neck_features = self.neck(backbone_features)
        maps_by_part = {FEATURES_BACKBONE: backbone_features, FEATURES_NECK: neck_features}
        if wanted <= maps_by_part.keys():
            # A teacher is often asked for feature maps alone; heads can cost a third of a pass.
            return DetectorOutput(features=wanted_features(wanted, maps_by_part))
        towers, dense = self.predict_dense(neck_features, (pixels.shape[2], pixels.shape[3]))
        maps_by_part[FEATURES_HEAD] = towers
        losses: dict[str, Tensor] = {}
        with full_precision(pixels.device):
            if targets is not None and wanted & {LOSSES, DENSE}:
                matched = self.match(dense.priors, targets)
                if LOSSES in wanted:
                    losses = self.compute_losses(dense, targets, matched)
                if DENSE in wanted:
                    dense = _with_labels(dense, matched, targets)
            detections = self.detect(dense, batch) if DETECTIONS in wanted else None
        return DetectorOutput(
            features=wanted_features(wanted, maps_by_part),
            dense=dense if DENSE in wanted else None,
            losses=losses,
            detections=detections,
        )


def _with_labels(
    dense: DensePrediction, matched: Tensor, targets: Sequence[Targets]
) -> DensePrediction:
    """Return predictions with the label of the box that each prior is matched to.

    Args:
        dense: The predictions.
        matched: [b n], as `DenseDetector.match` returns it.
        targets: One an image.
    """
    # A label more, of no box, for images without boxes: an index has to point somewhere.
    labels = [
        torch.where(row >= 0, torch.cat([t.labels, t.labels.new_zeros(1)])[row.clamp(min=0)], row)
        for row, t in zip(matched, targets, strict=True)
    ]
    sizes = [len(level) for level in dense.priors]
    return replace(dense, matched_labels=torch.stack(labels).split_with_sizes(sizes, 1))

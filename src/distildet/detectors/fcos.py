"""FCOS (Tian et al., arXiv 2006.09214) on any pyramid backbone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxLinearCoder

from distildet.classes import ClassList
from distildet.detectors.anchor_head import HeadNorm
from distildet.detectors.base import DETECTORS
from distildet.detectors.dense_detection import detect_dense
from distildet.detectors.dense_detector import DenseDetector
from distildet.detectors.point_head import PointHead
from distildet.detectors.point_losses import match_points, point_losses
from distildet.detectors.priors import grid_priors
from distildet.detectors.pyramid import ExtraLevelsFrom, NeckNorm
from distildet.detectors.pyramid_detector import check_options, pyramid_anchors, stored_options
from distildet.structures import DensePrediction, Detections, ImageBatch, Targets

OBJECT_SIDE = 10.0
"""Longer side in strides, in the middle of those boxes of which a level claims most points: their
farthest side is 4 to 8 strides away from a point, which lies up to 1.5 off the centre."""
_AT_LEAST = {"neck_channels": 2, "max_detections": 1, "extra_levels": 0, "head_depth": 0}


@DETECTORS.register("fcos")
class FCOS(DenseDetector):
    """One-stage detector without anchors, composed of torchvision's parts and our losses.

    With the default options on "torchvision/resnet50" it computes the same losses as
    `torchvision.models.detection.fcos_resnet50_fpn` with equal weights, and with its score floor
    (0.2) and number of detections (100) the same detections. Its priors are squares of one stride
    around each location. Licence of the code: BSD-3 (torchvision) and Apache-2.0.

    Args:
        classes: What it detects.
        backbone: A timm model name, or "torchvision/NAME".
        pretrained: Backbone weights: true (the library's download), a file, or false.
        image_size: Longer side in pixels of the images it sees.
        backbone_levels: Backbone maps in use, finest first, consecutive, of C2..C5.
        extra_levels: Coarser pyramid levels added to the neck.
        extra_levels_from: Input of the first of them.
        neck_channels: Width of neck and head.
        neck_norm: Normalisation in the neck.
        head_depth: Convolutions in each head tower.
        head_norm: Normalisation in the towers.
        center_radius: A box claims locations up to so many strides from its centre.
        score_floor: Detections at or below this score are dropped.
        nms_iou: Per-class suppression threshold.
        max_detections: Detections kept per image.

    Raises:
        ConfigError: An option has no meaning; the message names it.
        WeightsError: The backbone's weights cannot be had.
    """

    def __init__(
        self,
        classes: ClassList,
        *,
        backbone: str = "resnet18",
        pretrained: bool | Path = False,
        image_size: int = 640,
        backbone_levels: tuple[str, ...] = ("C3", "C4", "C5"),
        extra_levels: int = 2,
        extra_levels_from: ExtraLevelsFrom = "neck",
        neck_channels: int = 256,
        neck_norm: NeckNorm = "none",
        head_depth: int = 4,
        head_norm: HeadNorm = "group",
        center_radius: float = 1.5,
        score_floor: float = 0.05,
        nms_iou: float = 0.6,
        max_detections: int = 300,
    ) -> None:
        options = stored_options("fcos", locals())
        check_options(
            "fcos",
            options,
            at_least=_AT_LEAST,
            shares=("score_floor", "nms_iou"),
            positive=("center_radius",),
        )
        super().__init__(
            family="fcos",
            classes=classes,
            options=options,
            pretrained=pretrained,
            image_size=image_size,
            object_side=OBJECT_SIDE,
            object_size="longer side",
        )
        self.points = pyramid_anchors(self.neck.strides, scale=1.0, octaves=1, ratios=(1.0,))
        self.head = PointHead(neck_channels, len(classes), depth=head_depth, norm=head_norm)
        self.box_coder = BoxLinearCoder(normalize_by_size=True)

    def class_layers(self) -> tuple[str, ...]:
        """Return the names of the modules whose weights belong to the classes."""
        return ("head.classification_head.cls_logits",)

    def predict_dense(
        self, features: dict[str, Tensor], padded_size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], DensePrediction]:
        """Return tower features and predictions; see `DenseDetector.predict_dense`."""
        towers, logits, codes, quality = self.head(features)
        return towers, DensePrediction(
            logits=tuple(logits),
            box_codes=tuple(codes),
            priors=grid_priors(self.points, padded_size, list(features.values())),
            activation="sigmoid",
            quality_logits=tuple(quality),
        )

    def match(self, priors: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
        """Return what each location is matched to; see `DenseDetector.match`."""
        radius = self.spec.options["center_radius"]
        return torch.stack([match_points(priors, t, center_radius=radius) for t in targets])

    def compute_losses(
        self, dense: DensePrediction, targets: Sequence[Targets], matched: Tensor
    ) -> dict[str, Tensor]:
        """Return "classification", "box" and "quality"; see `point_losses`."""
        return point_losses(dense, targets, matched, box_coder=self.box_coder)

    def detect(self, dense: DensePrediction, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return the detections of each image, in the image frame."""
        options = self.spec.options
        return detect_dense(
            dense,
            batch,
            decode=self.box_coder.decode,
            score_floor=options["score_floor"],
            nms_iou=options["nms_iou"],
            max_detections=options["max_detections"],
        )

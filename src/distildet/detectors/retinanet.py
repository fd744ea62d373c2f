"""RetinaNet (Lin et al., arXiv 1708.02002) on any pyramid backbone."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher

from distildet.classes import ClassList
from distildet.detectors.anchor_head import AnchorHead, HeadNorm
from distildet.detectors.base import DETECTORS
from distildet.detectors.dense_detection import detect_dense
from distildet.detectors.dense_detector import DenseDetector
from distildet.detectors.dense_losses import BoxLoss, dense_losses, match_anchors
from distildet.detectors.priors import grid_priors
from distildet.detectors.pyramid import ExtraLevelsFrom, NeckNorm
from distildet.detectors.pyramid_detector import check_options, pyramid_anchors, stored_options
from distildet.structures import DensePrediction, Detections, ImageBatch, Targets

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4
_AT_LEAST = {
    "neck_channels": 2,
    "anchor_octaves": 1,
    "max_detections": 1,
    "extra_levels": 0,
    "head_depth": 0,
}


@DETECTORS.register("retinanet")
class RetinaNet(DenseDetector):
    """One-stage anchor detector, composed of torchvision's parts and our losses.

    With the default options on "torchvision/resnet50" it computes the same losses and detections
    as `torchvision.models.detection.retinanet_resnet50_fpn` with equal weights (extra levels from
    the backbone). Licence of the code: BSD-3 (torchvision) and Apache-2.0.

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
        anchor_scale: Side of the smallest anchor of a level, in strides.
        anchor_octaves: Anchor sizes per level within one octave.
        anchor_ratios: Height / width of the anchors.
        box_loss: "l1" on box codes or "giou" on boxes.
        score_floor: Detections at or below this score are dropped.
        nms_iou: Per-class suppression threshold.
        max_detections: Detections kept per image.

    Raises:
        ConfigError: An option has no meaning; the message names it.
        WeightsError: The backbone's weights cannot be had.
    """

    # Each image is divided by its own number of foreground anchors.
    counts_over_batch = False

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
        head_norm: HeadNorm = "none",
        anchor_scale: float = 4.0,
        anchor_octaves: int = 3,
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        box_loss: BoxLoss = "l1",
        score_floor: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 300,
    ) -> None:
        options = stored_options("retinanet", locals())
        check_options(
            "retinanet",
            options,
            at_least=_AT_LEAST,
            shares=("score_floor", "nms_iou"),
            positive=("anchor_scale", "anchor_ratios"),
        )
        super().__init__(
            family="retinanet",
            classes=classes,
            options=options,
            pretrained=pretrained,
            image_size=image_size,
            # The middle of a level's anchors.
            object_side=anchor_scale * 2 ** ((anchor_octaves - 1) / anchor_octaves / 2),
        )
        self.anchors = pyramid_anchors(
            self.neck.strides, scale=anchor_scale, octaves=anchor_octaves, ratios=anchor_ratios
        )
        self.head = AnchorHead(
            neck_channels,
            anchor_octaves * len(anchor_ratios),
            len(classes),
            depth=head_depth,
            norm=head_norm,
        )
        self.box_loss: BoxLoss = box_loss
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.matcher = Matcher(FOREGROUND_IOU, BACKGROUND_IOU, allow_low_quality_matches=True)

    def class_layers(self) -> tuple[str, ...]:
        """Return the names of the modules whose weights belong to the classes."""
        return ("head.classification_head.cls_logits",)

    def predict_dense(
        self, features: dict[str, Tensor], padded_size: tuple[int, int]
    ) -> tuple[dict[str, Tensor], DensePrediction]:
        """Return tower features and predictions; see `DenseDetector.predict_dense`."""
        towers, logits, codes = self.head(features)
        return towers, DensePrediction(
            logits=tuple(logits),
            box_codes=tuple(codes),
            priors=grid_priors(self.anchors, padded_size, list(features.values())),
            activation="sigmoid",
        )

    def match(self, priors: Sequence[Tensor], targets: Sequence[Targets]) -> Tensor:
        """Return what each anchor is matched to; see `DenseDetector.match`."""
        anchors = torch.cat(list(priors))
        return torch.stack([match_anchors(anchors, target, self.matcher) for target in targets])

    def compute_losses(
        self, dense: DensePrediction, targets: Sequence[Targets], matched: Tensor
    ) -> dict[str, Tensor]:
        """Return "classification" and "box"; see `dense_losses`."""
        return dense_losses(
            dense, targets, matched, box_coder=self.box_coder, box_loss=self.box_loss
        )

    def detect(self, dense: DensePrediction, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return the detections of each image, in the image frame."""
        options = self.spec.options
        return detect_dense(
            dense,
            batch,
            decode=self.box_coder.decode_single,
            score_floor=options["score_floor"],
            nms_iou=options["nms_iou"],
            max_detections=options["max_detections"],
        )

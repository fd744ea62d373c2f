"""RetinaNet (Lin et al., arXiv 1708.02002) on any pyramid backbone."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator

from distildet.classes import ClassList
from distildet.detectors.anchor_head import AnchorHead, HeadNorm, detect, grid_priors
from distildet.detectors.backbones import PYRAMID_STRIDES, build_backbone
from distildet.detectors.base import DETECTORS, Detector, DetectorSpec, FeatureLevel
from distildet.detectors.dense_losses import BoxLoss, dense_losses
from distildet.detectors.pyramid import ExtraLevelsFrom, PyramidNeck
from distildet.errors import ConfigError
from distildet.structures import (
    DENSE,
    DETECTIONS,
    FEATURES_BACKBONE,
    FEATURES_HEAD,
    FEATURES_NECK,
    LOSSES,
    DensePrediction,
    DetectorOutput,
    ImageBatch,
    Targets,
)

FOREGROUND_IOU = 0.5
BACKGROUND_IOU = 0.4
CANDIDATES_PER_LEVEL = 1000


@DETECTORS.register("retinanet")
class RetinaNet(Detector):
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
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in locals().items()
            if name in DETECTORS.options("retinanet") and name not in {"pretrained", "image_size"}
        }
        _check_options(options)
        body = build_backbone(backbone, levels=backbone_levels, pretrained=pretrained)
        neck = PyramidNeck(
            backbone_levels, body.channels, neck_channels, extra_levels, extra_levels_from
        )
        super().__init__(
            DetectorSpec(
                family="retinanet",
                classes=classes,
                levels=_levels(body.levels, body.channels, neck, neck_channels),
                head="dense",
                parts=frozenset(
                    {FEATURES_BACKBONE, FEATURES_NECK, FEATURES_HEAD, DENSE, LOSSES, DETECTIONS}
                ),
                image_size=image_size,
                mean=body.mean,
                std=body.std,
                licence="BSD-3-Clause AND Apache-2.0",
                options=options,
            )
        )
        self.backbone = body
        self.neck = neck
        # Sizes are whole pixels, as in torchvision's default anchors.
        sizes = tuple(
            tuple(
                int(anchor_scale * stride * 2 ** (octave / anchor_octaves))
                for octave in range(anchor_octaves)
            )
            for stride in neck.strides
        )
        self.anchors = AnchorGenerator(  # type: ignore[no-untyped-call] # torchvision has no types
            sizes, (tuple(anchor_ratios),) * len(sizes)
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

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbone."""
        return list(self.backbone.parameters())

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
        towers, logits, codes = self.head(neck_features)
        padded_size = (pixels.shape[2], pixels.shape[3])
        dense = DensePrediction(
            logits=tuple(logits),
            box_codes=tuple(codes),
            priors=grid_priors(self.anchors, padded_size, list(neck_features.values())),
            activation="sigmoid",
        )
        features: dict[str, Tensor] = {}
        for part, maps in (
            (FEATURES_BACKBONE, backbone_features),
            (FEATURES_NECK, neck_features),
            (FEATURES_HEAD, towers),
        ):
            features.update(maps if part in wanted else {})
        losses: dict[str, Tensor] = {}
        if LOSSES in wanted and targets is not None:
            losses = dense_losses(
                dense,
                targets,
                matcher=self.matcher,
                box_coder=self.box_coder,
                box_loss=self.box_loss,
            )
        return DetectorOutput(
            features=features,
            dense=dense if DENSE in wanted else None,
            losses=losses,
            detections=self._detect(dense, batch) if DETECTIONS in wanted else None,
        )

    def _detect(self, dense: DensePrediction, batch: ImageBatch) -> Any:
        options = self.spec.options
        return detect(
            dense,
            batch,
            self.box_coder,
            score_floor=options["score_floor"],
            nms_iou=options["nms_iou"],
            candidates=CANDIDATES_PER_LEVEL,
            max_detections=options["max_detections"],
        )


def _levels(
    names: Sequence[str], channels: Sequence[int], neck: PyramidNeck, neck_channels: int
) -> tuple[FeatureLevel, ...]:
    levels = [
        FeatureLevel(name=name, channels=count, stride=PYRAMID_STRIDES[name])
        for name, count in zip(names, channels, strict=True)
    ]
    for prefix in ("", "cls.", "box."):
        levels += [
            FeatureLevel(name=f"{prefix}{name}", channels=neck_channels, stride=stride)
            for name, stride in zip(neck.levels, neck.strides, strict=True)
        ]
    return tuple(levels)


_AT_LEAST = {
    "neck_channels": 1,
    "anchor_octaves": 1,
    "max_detections": 1,
    "extra_levels": 0,
    "head_depth": 0,
}


def _check_options(options: Mapping[str, Any]) -> None:
    for name, least in _AT_LEAST.items():
        if options[name] < least:
            raise ConfigError(
                f"RetinaNet option {name} is {options[name]}. Accepted: {least} or more."
            )
    for name in ("score_floor", "nms_iou"):
        if not 0 <= options[name] <= 1:
            raise ConfigError(f"RetinaNet option {name} is {options[name]}. Accepted: 0 to 1.")
    ratios = options["anchor_ratios"]
    if not ratios or min(options["anchor_scale"], *ratios) <= 0:
        raise ConfigError(
            f"RetinaNet option anchor_scale is {options['anchor_scale']} and anchor_ratios is "
            f"{ratios}. Accepted: numbers above 0, at least one ratio."
        )

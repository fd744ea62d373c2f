"""Faster R-CNN (Ren et al., arXiv 1506.01497) with a feature pyramid (Lin et al., 1612.03144)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher

from distildet.classes import ClassList
from distildet.detectors.balanced_sampler import BalancedSampler, image_generators
from distildet.detectors.base import DETECTORS
from distildet.detectors.dense_detection import finite_images
from distildet.detectors.proposals import ProposalNetwork
from distildet.detectors.pyramid import ExtraLevelsFrom, NeckNorm
from distildet.detectors.pyramid_detector import (
    PyramidDetector,
    check_options,
    pyramid_anchors,
    stored_options,
    wanted_features,
)
from distildet.detectors.region_head import RegionHead, RegionNorm
from distildet.detectors.region_losses import proposal_losses, region_losses, sample_regions
from distildet.errors import ConfigError
from distildet.structures import (
    DETECTIONS,
    FEATURES_BACKBONE,
    FEATURES_NECK,
    LOSSES,
    REGIONS,
    DensePrediction,
    Detections,
    DetectorOutput,
    ImageBatch,
    RegionPrediction,
    Targets,
)

PROPOSAL_FOREGROUND_IOU = 0.7
PROPOSAL_BACKGROUND_IOU = 0.3
PROPOSAL_FOREGROUND_SHARE = 0.5
REGION_FOREGROUND_IOU = 0.5
REGION_FOREGROUND_SHARE = 0.25
_AT_LEAST = {
    "neck_channels": 1,
    "extra_levels": 0,
    "anchor_octaves": 1,
    "proposal_depth": 1,
    "proposal_samples": 1,
    "train_proposals": 1,
    "test_proposals": 1,
    "region_size": 1,
    "region_canonical_size": 1,
    "region_convs": 0,
    "region_layers": 1,
    "region_channels": 1,
    "region_samples": 1,
    "max_detections": 1,
}


@DETECTORS.register("faster_rcnn")
class FasterRCNN(PyramidDetector):
    """Two-stage detector, composed of torchvision's parts and our losses.

    With the default options on "torchvision/resnet50" it computes the same losses and detections
    as `torchvision.models.detection.fasterrcnn_resnet50_fpn` with equal weights (there
    max_detections is 100). Licence of the code: BSD-3 (torchvision) and Apache-2.0.

    The part "regions" holds what the region head says about proposals: those that it learns from
    where "losses" are wanted too, otherwise those that detections are made of, or, with
    `given={"regions": ...}`, those of another detector on the same batch. Where a teacher drew the
    boxes, those to learn from are followed by up to a quarter of `region_samples` on its ignore
    regions, where it is undecided; the losses are the same without them. They go through the
    region head by themselves, which BatchNorm in train mode sees as a further batch.

    Args:
        classes: What it detects.
        backbone: A timm model name, or "torchvision/NAME".
        pretrained: Backbone weights: true (the library's download), a file, or false.
        image_size: Longer side in pixels of the images it sees.
        backbone_levels: Backbone maps in use, finest first, consecutive, of C2..C5. Regions are
            pooled from the pyramid levels of these.
        extra_levels: Coarser pyramid levels added for proposals.
        extra_levels_from: Input of the first of them; "subsampling" has no weights.
        neck_channels: Width of neck and proposal network.
        neck_norm: Normalisation in the neck.
        anchor_scale: Side of the smallest anchor of a level, in strides.
        anchor_octaves: Anchor sizes per level within one octave.
        anchor_ratios: Height / width of the anchors.
        proposal_depth: Convolutions of the proposal network before its predictors.
        proposal_samples: Anchors per image that the proposal network learns from.
        train_proposals: Proposals per image of which regions to learn from are drawn.
        test_proposals: Proposals per image of which detections are made.
        region_size: Side of a pooled region, in cells.
        region_canonical_size: Side in pixels of the box that is pooled from the level of
            stride 16; boxes of half that side come from the next finer level.
        region_convs: Convolutions of the region head.
        region_norm: Normalisation after these.
        region_layers: Linear layers of the region head.
        region_channels: Width of these.
        region_samples: Regions per image that the region head learns from.
        unused_columns: Class columns that stand for no class, counted without background; files
            of stock weights for COCO have ten.
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
        backbone_levels: tuple[str, ...] = ("C2", "C3", "C4", "C5"),
        extra_levels: int = 1,
        extra_levels_from: ExtraLevelsFrom = "subsampling",
        neck_channels: int = 256,
        neck_norm: NeckNorm = "none",
        anchor_scale: float = 8.0,
        anchor_octaves: int = 1,
        anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0),
        proposal_depth: int = 1,
        proposal_samples: int = 256,
        train_proposals: int = 2000,
        test_proposals: int = 1000,
        region_size: int = 7,
        region_canonical_size: int = 224,
        region_convs: int = 0,
        region_norm: RegionNorm = "none",
        region_layers: int = 2,
        region_channels: int = 1024,
        region_samples: int = 512,
        unused_columns: tuple[int, ...] = (),
        score_floor: float = 0.05,
        nms_iou: float = 0.5,
        max_detections: int = 300,
    ) -> None:
        options = stored_options("faster_rcnn", locals())
        check_options(
            "faster_rcnn",
            options,
            at_least=_AT_LEAST,
            shares=("score_floor", "nms_iou"),
            positive=("anchor_scale", "anchor_ratios"),
        )
        num_columns = len(classes) + len(unused_columns)
        _check_columns(unused_columns, num_columns)
        super().__init__(
            family="faster_rcnn",
            classes=classes,
            options=options,
            pretrained=pretrained,
            image_size=image_size,
            head="region",
            parts={FEATURES_BACKBONE, FEATURES_NECK, REGIONS, LOSSES, DETECTIONS},
            # The middle of the boxes, from this side to its double, that the level of stride 16
            # is pooled for.
            object_side=math.sqrt(2) * region_canonical_size / 16,
            num_object_levels=len(backbone_levels),
        )
        self.proposal_network = ProposalNetwork(
            neck_channels,
            pyramid_anchors(
                self.neck.strides, scale=anchor_scale, octaves=anchor_octaves, ratios=anchor_ratios
            ),
            proposal_depth,
        )
        self.region_head = RegionHead(
            self.neck.levels[: len(backbone_levels)],
            neck_channels,
            num_columns,
            unused_columns,
            region_size=region_size,
            canonical_size=region_canonical_size,
            convs=region_convs,
            norm=region_norm,
            layers=region_layers,
            hidden_channels=region_channels,
        )
        self.proposal_matcher = Matcher(
            PROPOSAL_FOREGROUND_IOU, PROPOSAL_BACKGROUND_IOU, allow_low_quality_matches=True
        )
        self.region_matcher = Matcher(REGION_FOREGROUND_IOU, REGION_FOREGROUND_IOU)
        self.proposal_sampler = BalancedSampler(
            number=proposal_samples, foreground_share=PROPOSAL_FOREGROUND_SHARE
        )
        self.region_sampler = BalancedSampler(
            number=region_samples, foreground_share=REGION_FOREGROUND_SHARE
        )

    def class_layers(self) -> tuple[str, ...]:
        """Return the names of the modules whose weights belong to the classes."""
        return ("region_head.predictor",)

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets] | None = None,
        *,
        want: Iterable[str],
        given: Mapping[str, Any] | None = None,
    ) -> DetectorOutput:
        """Compute the wanted parts in one pass; see `Detector.forward`."""
        wanted = self.wanted(want)
        if LOSSES in wanted and targets is None:
            raise ValueError("The part 'losses' needs targets, one for each image of the batch.")
        pixels = self.normalise(batch)
        backbone_features = self.backbone(pixels)
        features = self.neck(backbone_features)
        other: RegionPrediction | None = (given or {}).get(REGIONS)
        regions = None if other is None else self.region_head(features, other.proposals)
        losses: dict[str, Tensor] = {}
        detections: tuple[Detections, ...] | None = None
        if wanted & {LOSSES, DETECTIONS} or (REGIONS in wanted and regions is None):
            dense = self.proposal_network(features, (pixels.shape[2], pixels.shape[3]))
            if LOSSES in wanted and targets is not None:
                losses, learned = self._learn(
                    features,
                    dense,
                    batch,
                    targets,
                    with_undecided=REGIONS in wanted and regions is None,
                )
                regions = learned if regions is None else regions
            if DETECTIONS in wanted or (REGIONS in wanted and regions is None):
                proposals = self.proposal_network.select(
                    dense, batch, self.spec.options["test_proposals"]
                )
                found = self.region_head(features, proposals)
                regions = found if regions is None else regions
                if DETECTIONS in wanted:
                    detections = self._detect(found, batch, finite_images(dense))
        maps_by_part = {FEATURES_BACKBONE: backbone_features, FEATURES_NECK: features}
        return DetectorOutput(
            features=wanted_features(wanted, maps_by_part),
            regions=self.region_head.of_classes(regions)
            if REGIONS in wanted and regions is not None
            else None,
            losses=losses,
            detections=detections,
        )

    def _learn(
        self,
        features: dict[str, Tensor],
        dense: DensePrediction,
        batch: ImageBatch,
        targets: Sequence[Targets],
        *,
        with_undecided: bool,
    ) -> tuple[dict[str, Tensor], RegionPrediction]:
        """Return the losses, and the predictions of the regions that they come from.

        Those of undecided regions follow, where wanted.
        """
        generators = image_generators(batch.image_ids)
        losses = proposal_losses(
            dense,
            targets,
            matcher=self.proposal_matcher,
            sampler=self.proposal_sampler,
            generators=generators,
            box_coder=self.proposal_network.box_coder,
        )
        proposals = self.proposal_network.select(dense, batch, self.spec.options["train_proposals"])
        sampled = sample_regions(
            proposals,
            targets,
            matcher=self.region_matcher,
            sampler=self.region_sampler,
            generators=generators,
            with_undecided=with_undecided,
        )
        regions = self.region_head(features, [one.learned for one in sampled])
        undecided = [one.undecided for one in sampled]
        if any(len(boxes) for boxes in undecided):
            # In a pass of their own: beside them BatchNorm would change the losses of the others.
            regions = _joined(regions, self.region_head(features, undecided))
        losses |= region_losses(
            regions,
            sampled,
            targets,
            columns=self.region_head.used_columns,
            box_coder=self.region_head.box_coder,
        )
        return losses, regions

    def _detect(
        self, regions: RegionPrediction, batch: ImageBatch, is_finite: Sequence[bool]
    ) -> tuple[Detections, ...]:
        options = self.spec.options
        return self.region_head.detect(
            regions,
            batch,
            score_floor=options["score_floor"],
            nms_iou=options["nms_iou"],
            max_detections=options["max_detections"],
            is_finite=is_finite,
        )


def _joined(first: RegionPrediction, second: RegionPrediction) -> RegionPrediction:
    """Return, image by image, the one's regions and then the other's."""
    return RegionPrediction(
        **{
            field.name: tuple(
                torch.cat(pair)
                for pair in zip(
                    getattr(first, field.name), getattr(second, field.name), strict=True
                )
            )
            for field in fields(RegionPrediction)
        }
    )


def _check_columns(unused: Sequence[int], num_columns: int) -> None:
    if len(set(unused)) < len(unused) or any(not 0 <= c < num_columns for c in unused):
        raise ConfigError(
            f"faster_rcnn option unused_columns is {list(unused)}. Accepted: different numbers "
            f"from 0 to {num_columns - 1}."
        )

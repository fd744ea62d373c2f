"""The region head of two-stage detectors: what a proposal shows, and its exact box."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, remove_small_boxes
from torchvision.ops.poolers import initLevelMapper

from distildet.ops.frames import to_image_frame
from distildet.structures import Detections, ImageBatch, RegionPrediction

RegionNorm = Literal["none", "batch"]
CANONICAL_LEVEL = 4  # Lin et al., arXiv 1612.03144, equation 1
LEAST_SIDE_OF_DETECTIONS = 1e-2  # pixels


class RegionHead(nn.Module):
    """Pools each proposal from its pyramid level and predicts class and box.

    Args:
        levels: Pooled pyramid levels, finest first, such as ("P2", "P3").
        channels: Of the neck.
        num_columns: Class columns without background.
        unused_columns: Positions of class columns, counted without background, that stand for no
            class: they take part in the softmax, and in nothing else.
        region_size: Side of the pooled map, in cells.
        canonical_size: Side in pixels of the box that is pooled from the level of stride 16.
        convs: Convolutions before the linear layers.
        norm: Normalisation after these.
        layers: Linear layers.
        hidden_channels: Their width.
    """

    def __init__(
        self,
        levels: Sequence[str],
        channels: int,
        num_columns: int,
        unused_columns: Sequence[int],
        *,
        region_size: int,
        canonical_size: int,
        convs: int,
        norm: RegionNorm,
        layers: int,
        hidden_channels: int,
    ) -> None:
        super().__init__()
        numbers = [int(level[1:]) for level in levels]
        self.pool = MultiScaleRoIAlign(list(levels), region_size, sampling_ratio=2)
        # torchvision guesses both from the first batch and keeps the guess outside of the state
        # dict: an odd first batch would decide for ever.
        self.pool.scales = [2.0**-n for n in numbers]  # type: ignore[assignment] # typed as None
        self.pool.map_levels = initLevelMapper(
            numbers[0], numbers[-1], canonical_size, CANONICAL_LEVEL
        )
        self.layers = FastRCNNConvFCHead(
            (channels, region_size, region_size),
            [channels] * convs,
            [hidden_channels] * layers,
            norm_layer=nn.BatchNorm2d if norm == "batch" else None,
        )
        self.predictor = FastRCNNPredictor(  # type: ignore[no-untyped-call] # torchvision has no types
            hidden_channels, num_columns + 1
        )
        self.box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
        used = [column for column in range(num_columns) if column not in set(unused_columns)]
        self.used_columns = tuple(used)

    def forward(self, features: dict[str, Tensor], proposals: Sequence[Tensor]) -> RegionPrediction:
        """Return predictions of all columns, unused ones included.

        Args:
            features: Of the neck, level name -> [b c h w].
            proposals: An image [n 4], xyxy pixels of the batch frame.
        """
        # In float32: boxes in half precision would be off by pixels.
        maps = {level: features[level].float() for level in self.pool.featmap_names}
        pooled = self.pool(maps, list(proposals), [])  # [m c s s], m over all images
        logits, codes = self._judge(pooled)
        counts = [len(boxes) for boxes in proposals]
        columns = self.predictor.cls_score.out_features
        codes = codes.reshape(-1, columns, 4)[:, 1:]  # [m k 4]: background has no box
        return RegionPrediction(
            proposals=tuple(proposals),
            features=torch.split(pooled, counts),
            logits=torch.split(logits.float(), counts),
            box_codes=torch.split(codes.float(), counts),
        )

    def _judge(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [m 1+k] and box codes [m 4+4k] of pooled regions [m c s s]."""
        if len(pooled):
            logits, codes = self.predictor(self.layers(pooled))
            return logits, codes
        # BatchNorm refuses an empty batch. Every parameter still gets a gradient, which is zero.
        nothing = torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0
        columns = self.predictor.cls_score.out_features
        return (
            pooled.new_zeros(0, columns) + nothing,
            pooled.new_zeros(0, 4 * columns) + nothing,
        )

    def of_classes(self, regions: RegionPrediction) -> RegionPrediction:
        """Return predictions without the unused columns."""
        if len(self.used_columns) == regions.box_codes[0].shape[1]:
            return regions
        columns = torch.tensor(self.used_columns, device=regions.logits[0].device)
        with_background = torch.cat([columns.new_zeros(1), columns + 1])
        return RegionPrediction(
            proposals=regions.proposals,
            features=regions.features,
            logits=tuple(logits[:, with_background] for logits in regions.logits),
            box_codes=tuple(codes[:, columns] for codes in regions.box_codes),
        )

    def detect(
        self,
        regions: RegionPrediction,
        batch: ImageBatch,
        *,
        score_floor: float,
        nms_iou: float,
        max_detections: int,
        is_finite: Sequence[bool],
    ) -> tuple[Detections, ...]:
        """Turn predictions of all columns into detections in the image frame.

        Args:
            regions: As `forward` returns it.
            batch: Gives valid sizes and the way back to the image frame.
            score_floor: Scores at or below it are dropped.
            nms_iou: Per-class non-maximum suppression threshold.
            max_detections: Best detections kept per image.
            is_finite: Whether the numbers that the proposals come from are finite, by image.
        """
        columns = torch.tensor(self.used_columns, device=regions.logits[0].device)
        results = []
        for i in range(len(batch)):
            head_is_finite = (
                regions.logits[i].isfinite().all() & regions.box_codes[i].isfinite().all()
            )
            probs = F.softmax(regions.logits[i], dim=1)[:, 1:][:, columns]  # [n k]
            region, label = torch.where(probs > score_floor)
            codes = regions.box_codes[i][region, columns[label]]
            height, width = batch.sizes[i].tolist()
            boxes = clip_boxes_to_image(
                self.box_coder.decode_single(codes, regions.proposals[i][region]), (height, width)
            )
            scores = probs[region, label]
            large = remove_small_boxes(boxes, LEAST_SIDE_OF_DETECTIONS)
            boxes, scores, label = boxes[large], scores[large], label[large]
            keep = batched_nms(boxes, scores, label, nms_iou)[:max_detections]
            results.append(
                Detections(
                    boxes=to_image_frame(boxes[keep].cpu(), batch, i),
                    scores=scores[keep].cpu(),
                    labels=label[keep].cpu(),
                    is_finite=is_finite[i] and bool(head_is_finite),
                )
            )
        return tuple(results)

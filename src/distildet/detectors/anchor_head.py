"""The anchor head: two towers, dense predictions, and post-processing to detections."""

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import batched_nms, clip_boxes_to_image
from torchvision.ops.misc import Conv2dNormActivation

from distildet.ops.frames import to_image_frame
from distildet.structures import DensePrediction, Detections, ImageBatch

HeadNorm = Literal["none", "group"]
PRIOR_PROBABILITY = 0.01  # Lin et al., arXiv 1708.02002, section 4.1


class _Branch(nn.Module):
    """One tower and its predictor; the submodule names are those of torchvision's heads."""

    def __init__(
        self, predictor: str, channels: int, depth: int, norm: HeadNorm, outputs: int
    ) -> None:
        super().__init__()
        groups = math.gcd(32, channels)
        norm_layer = (lambda c: nn.GroupNorm(groups, c)) if norm == "group" else None
        self.conv = nn.Sequential(
            *[Conv2dNormActivation(channels, channels, norm_layer=norm_layer) for _ in range(depth)]
        )
        self.predictor_name = predictor
        self.add_module(predictor, nn.Conv2d(channels, outputs, 3, padding=1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @property
    def predictor(self) -> nn.Conv2d:
        module = self.get_submodule(self.predictor_name)
        return cast(nn.Conv2d, module)


class AnchorHead(nn.Module):
    """Classification and box towers shared by all levels.

    Args:
        channels: Channels of the neck.
        num_anchors: Anchors at each location.
        num_classes: Classes without background.
        depth: Convolutions in each tower, 0 or more.
        norm: Normalisation in the towers.
    """

    def __init__(
        self, channels: int, num_anchors: int, num_classes: int, *, depth: int, norm: HeadNorm
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.classification_head = _Branch(
            "cls_logits", channels, depth, norm, num_anchors * num_classes
        )
        self.regression_head = _Branch("bbox_reg", channels, depth, norm, num_anchors * 4)
        bias = cast(Tensor, self.classification_head.predictor.bias)
        nn.init.constant_(bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(
        self, features: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Tensor], list[Tensor]]:
        """Return tower features by name, logits [b n k] and box codes [b n 4] per level."""
        towers: dict[str, Tensor] = {}
        logits, codes = [], []
        for level, feature in features.items():
            towers[f"cls.{level}"] = self.classification_head.conv(feature)
            towers[f"box.{level}"] = self.regression_head.conv(feature)
            raw = self.classification_head.predictor(towers[f"cls.{level}"])
            logits.append(_location_major(raw, self.num_classes))
            raw = self.regression_head.predictor(towers[f"box.{level}"])
            codes.append(_location_major(raw, 4))
        return towers, logits, codes


def _location_major(raw: Tensor, width: int) -> Tensor:
    b, _, h, w = raw.shape
    grouped = raw.reshape(b, -1, width, h, w)  # [b a width h w]
    return grouped.permute(0, 3, 4, 1, 2).reshape(b, -1, width)  # [b hwa width]


def grid_priors(
    generator: AnchorGenerator, padded_size: tuple[int, int], features: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Return the anchors of each level, [n 4] float32, whatever the features' precision.

    torchvision's own call makes them in the features' type; in bf16 they are off by pixels.
    """
    device = features[0].device
    sizes = [list(feature.shape[-2:]) for feature in features]
    strides = [
        [torch.tensor(padded_size[axis] // size[axis], device=device) for axis in (0, 1)]
        for size in sizes
    ]
    generator.set_cell_anchors(torch.float32, device)
    return tuple(generator.grid_anchors(sizes, strides))


def detect(
    prediction: DensePrediction,
    batch: ImageBatch,
    box_coder: BoxCoder,
    *,
    score_floor: float,
    nms_iou: float,
    candidates: int,
    max_detections: int,
) -> tuple[Detections, ...]:
    """Turn dense predictions into detections in the image frame.

    Args:
        prediction: Sigmoid logits and box codes of the batch.
        batch: Gives valid sizes and the way back to the image frame.
        box_coder: Decodes boxes relative to anchors.
        score_floor: Scores at or below it are dropped.
        nms_iou: Per-class non-maximum suppression threshold.
        candidates: Best predictions kept per level before suppression.
        max_detections: Best detections kept per image.
    """
    results = []
    for i in range(len(batch)):
        boxes, scores, labels = [], [], []
        for logits, codes, anchors in zip(
            prediction.logits, prediction.box_codes, prediction.priors, strict=True
        ):
            flat = logits[i].float().sigmoid().flatten()  # [n k] -> [nk]
            above = torch.where(flat > score_floor)[0]
            best, order = flat[above].topk(min(candidates, len(above)))
            chosen = above[order]
            num_classes = logits.shape[-1]
            anchor = torch.div(chosen, num_classes, rounding_mode="floor")
            decoded = box_coder.decode_single(codes[i, anchor].float(), anchors[anchor])
            height, width = batch.sizes[i].tolist()
            boxes.append(clip_boxes_to_image(decoded, (height, width)))
            scores.append(best)
            labels.append(chosen % num_classes)
        all_boxes, all_scores, all_labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
        keep = batched_nms(all_boxes, all_scores, all_labels, nms_iou)[:max_detections]
        results.append(
            Detections(
                boxes=to_image_frame(all_boxes[keep].cpu(), batch, i),
                scores=all_scores[keep].cpu(),
                labels=all_labels[keep].cpu(),
            )
        )
    return tuple(results)

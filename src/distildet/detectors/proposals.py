"""The proposal network of two-stage detectors: where there might be an object."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from distildet.detectors.priors import grid_priors, location_major
from distildet.structures import DensePrediction, ImageBatch

PROPOSAL_NMS_IOU = 0.7
LEAST_SIDE_OF_PROPOSALS = (
    1e-3  # pixels; what clipping leaves of boxes outside the image has no area
)


class ProposalNetwork(nn.Module):
    """One class-agnostic logit and box code for each anchor (Ren et al., arXiv 1506.01497).

    Args:
        channels: Of the neck.
        anchors: Gives the anchors of each level.
        depth: Convolutions before the predictors, at least 1.
    """

    def __init__(self, channels: int, anchors: AnchorGenerator, depth: int) -> None:
        super().__init__()
        self.anchors = anchors
        self.box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        self.head = RPNHead(channels, anchors.num_anchors_per_location()[0], depth)

    def forward(self, features: dict[str, Tensor], padded_size: tuple[int, int]) -> DensePrediction:
        """Return logits [b n 1], box codes [b n 4] and anchors of each level."""
        maps = list(features.values())
        logits, codes = self.head(maps)
        return DensePrediction(
            logits=tuple(location_major(raw, 1) for raw in logits),
            box_codes=tuple(location_major(raw, 4) for raw in codes),
            priors=grid_priors(self.anchors, padded_size, maps),
            activation="sigmoid",
        )

    @torch.no_grad()
    def select(self, dense: DensePrediction, batch: ImageBatch, count: int) -> tuple[Tensor, ...]:
        """Return the best boxes of each image.

        Args:
            dense: As `forward` returns it.
            batch: Gives the valid sizes.
            count: Largest number of boxes of each level before suppression, and of each image
                after it.

        Returns:
            An image [n 4] float32, xyxy pixels of the batch frame, clipped to the valid part of
            the image, best first.
        """
        return tuple(
            self._select_of_image(dense, i, batch.sizes[i].tolist(), count)
            for i in range(len(batch))
        )

    def _select_of_image(
        self, dense: DensePrediction, index: int, size: Sequence[int], count: int
    ) -> Tensor:
        boxes, scores, levels = [], [], []
        for level, (logits, codes, anchors) in enumerate(
            zip(dense.logits, dense.box_codes, dense.priors, strict=True)
        ):
            flat = logits[index, :, 0].float()  # [n]
            best, chosen = flat.topk(min(count, len(flat)))
            boxes.append(
                self.box_coder.decode_single(codes[index, chosen].float(), anchors[chosen])
            )
            scores.append(best.sigmoid())
            levels.append(torch.full_like(chosen, level))
        clipped = clip_boxes_to_image(torch.cat(boxes), (size[0], size[1]))
        kept = remove_small_boxes(clipped, LEAST_SIDE_OF_PROPOSALS)
        proposals, all_scores, all_levels = (
            clipped[kept],
            torch.cat(scores)[kept],
            torch.cat(levels)[kept],
        )
        best_first = batched_nms(proposals, all_scores, all_levels, PROPOSAL_NMS_IOU)
        return proposals[best_first[:count]]

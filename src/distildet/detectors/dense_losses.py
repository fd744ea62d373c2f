"""Training losses of anchor heads, for targets with weights, ignore regions and unknown classes.

Equal to torchvision's RetinaNet losses when every weight and score is 1, nothing is ignored and all
classes are known.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_area, box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from distildet.ops.soft_focal_loss import soft_focal_loss
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, Targets

BoxLoss = Literal["l1", "giou"]
MOST_PAIRS = 2**24  # of boxes and anchors compared at once: some 64 MB a number of a pair


def match_anchors(anchors: Tensor, targets: Targets, matcher: Matcher) -> Tensor:
    """Assign each anchor to a target box, to background, or to nothing.

    An anchor is left out where its best overlap lies between the thresholds, and where it would
    be background but an ignore region would have claimed it by the same rule. A region drawn by a
    human is a crowd of many objects: there, anchors of any size that lie half inside are left out.

    Args:
        anchors: [n 4] xyxy, batch frame.
        targets: Of one image.
        matcher: torchvision's IoU matcher.

    Returns:
        [n] int64: index of the box, BACKGROUND, or LEFT_OUT.
    """
    matched = anchors.new_full((len(anchors),), BACKGROUND, dtype=torch.int64)
    if not len(anchors):
        return matched
    if len(targets.boxes):
        matched, _ = _best_boxes(targets.boxes, anchors, matcher)
    if len(targets.ignore):
        of_ignored, overlap = _best_boxes(targets.ignore, anchors, matcher)
        # The matcher gives a region its best anchors even where that overlap is 0.
        claimed = (of_ignored != BACKGROUND) & (overlap > 0)
        if targets.origin == "human":
            claimed |= _lie_half_inside(anchors, targets.ignore)
        matched = torch.where(claimed & (matched == BACKGROUND), LEFT_OUT, matched)
    return matched


def _best_boxes(boxes: Tensor, anchors: Tensor, matcher: Matcher) -> tuple[Tensor, Tensor]:
    """Return what the matcher says of each anchor [n], and its best overlap [n] with a box.

    Equal to `matcher(box_iou(boxes, anchors))`, in pieces: 2,000 boxes and 100,000 anchors would
    take several GB at once.
    """
    size = max(1, MOST_PAIRS // len(boxes))
    if len(anchors) <= size:
        overlaps = box_iou(boxes, anchors)  # [m n]
        return matcher(overlaps), overlaps.amax(dim=0)
    best, of_box = [], []
    most = boxes.new_zeros(len(boxes))
    for part in torch.split(anchors, size):
        overlaps = box_iou(boxes, part)
        values, indices = overlaps.max(dim=0)
        best.append(values)
        of_box.append(indices)
        most = torch.maximum(most, overlaps.amax(dim=1))
    overlap, nearest = torch.cat(best), torch.cat(of_box)
    matched = torch.where(overlap < matcher.high_threshold, LEFT_OUT, nearest)
    matched = torch.where(overlap < matcher.low_threshold, BACKGROUND, matched)
    if matcher.allow_low_quality_matches:
        is_most = torch.cat(
            [
                (box_iou(boxes, part) == most[:, None]).any(dim=0)
                for part in torch.split(anchors, size)
            ]
        )
        matched = torch.where(is_most, nearest, matched)
    return matched, overlap


def _lie_half_inside(anchors: Tensor, regions: Tensor) -> Tensor:
    """Return which anchors [n] lie with half of their area or more in one of the regions."""
    size = max(1, MOST_PAIRS // len(regions))
    return torch.cat([_half_inside(part, regions) for part in torch.split(anchors, size)])


def _half_inside(anchors: Tensor, regions: Tensor) -> Tensor:
    corners = torch.maximum(anchors[:, None, :2], regions[None, :, :2])  # [n m 2]
    ends = torch.minimum(anchors[:, None, 2:], regions[None, :, 2:])
    inside = (ends - corners).clamp(min=0).prod(dim=2)  # [n m]
    return (inside >= 0.5 * box_area(anchors)[:, None]).any(dim=1)


def dense_losses(
    prediction: DensePrediction,
    targets: Sequence[Targets],
    matched: Tensor,
    *,
    box_coder: BoxCoder,
    box_loss: BoxLoss,
) -> dict[str, Tensor]:
    """Compute focal classification loss and box loss of a sigmoid anchor head.

    Normaliser: each image's sums are divided by its number of foreground anchors (at least 1),
    then averaged over images. A box's weight multiplies the terms of its anchors but not the
    normaliser. Where a box has a score, that is the target of its class in place of 1, see
    `soft_focal_loss`. Classes that nobody looked for add nothing.

    Args:
        prediction: Of a batch; sigmoid activation.
        targets: One an image, batch frame.
        matched: [b n] over all levels, as `match_anchors` returns it for each image.
        box_coder: Codes boxes relative to anchors.
        box_loss: "l1" on codes, or "giou" on decoded boxes.

    Returns:
        "classification" and "box": float32 scalars with gradient, 0 for the box loss without
        foreground.
    """
    logits = torch.cat(prediction.logits, dim=1).float()  # [b n k]
    codes = torch.cat(prediction.box_codes, dim=1).float()  # [b n 4]
    anchors = torch.cat(prediction.priors)  # [n 4]
    classification, box = logits.new_zeros(()), codes.new_zeros(())
    for i, target in enumerate(targets):
        foreground = torch.where(matched[i] >= 0)[0]
        boxes_of = matched[i, foreground]
        normaliser = max(1, len(foreground))
        classification = (
            classification
            + _classification_sum(logits[i], matched[i], foreground, boxes_of, target) / normaliser
        )
        box = (
            box
            + _box_sum(
                codes[i, foreground],
                anchors[foreground],
                target.boxes[boxes_of],
                target.weights[boxes_of],
                box_coder=box_coder,
                box_loss=box_loss,
            )
            / normaliser
        )
    return {"classification": classification / len(targets), "box": box / len(targets)}


def _classification_sum(
    logits: Tensor, matched: Tensor, foreground: Tensor, boxes_of: Tensor, target: Targets
) -> Tensor:
    wanted = torch.zeros_like(logits)
    wanted[foreground, target.labels[boxes_of]] = 1.0
    weights = (matched != LEFT_OUT).to(logits.dtype)
    weights[foreground] = target.weights[boxes_of]
    loss = sigmoid_focal_loss(logits, wanted)  # [n k]
    if target.scores is not None:
        columns = target.labels[boxes_of]
        loss[foreground, columns] = soft_focal_loss(
            logits[foreground, columns], target.scores[boxes_of]
        )
    known = target.known_classes.to(logits.dtype)
    return (loss * weights[:, None] * known).sum()


def _box_sum(
    codes: Tensor,
    anchors: Tensor,
    boxes: Tensor,
    weights: Tensor,
    *,
    box_coder: BoxCoder,
    box_loss: BoxLoss,
) -> Tensor:
    if box_loss == "l1":
        loss = F.l1_loss(codes, box_coder.encode_single(boxes, anchors), reduction="none").sum(1)
    else:
        loss = generalized_box_iou_loss(box_coder.decode_single(codes, anchors), boxes)
    return (loss * weights).sum()

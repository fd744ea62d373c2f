"""From dense predictions to detections."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from distildet.ops.frames import to_image_frame
from distildet.structures import DensePrediction, Detections, ImageBatch

CANDIDATES_PER_LEVEL = 1000  # best predictions kept before suppression, as in torchvision


def detect_dense(
    prediction: DensePrediction,
    batch: ImageBatch,
    *,
    decode: Callable[[Tensor, Tensor], Tensor],
    score_floor: float,
    nms_iou: float,
    max_detections: int,
) -> tuple[Detections, ...]:
    """Turn dense predictions into detections in the image frame.

    Args:
        prediction: Sigmoid logits, box codes and, where there are any, quality logits.
        batch: Gives valid sizes and the way back to the image frame.
        decode: Box codes [n 4] and priors [n 4] -> boxes [n 4], batch frame.
        score_floor: Scores at or below it are dropped.
        nms_iou: Per-class non-maximum suppression threshold.
        max_detections: Best detections kept per image.
    """
    results = []
    is_finite = finite_images(prediction)
    for i in range(len(batch)):
        height, width = batch.sizes[i].tolist()
        boxes, scores, labels = [], [], []
        for level, (codes, priors) in enumerate(
            zip(prediction.box_codes, prediction.priors, strict=True)
        ):
            by_class = _scores(prediction, level, i)  # [n k]
            flat = by_class.flatten()
            above = torch.where(flat > score_floor)[0]
            best, order = flat[above].topk(min(CANDIDATES_PER_LEVEL, len(above)))
            chosen = above[order]
            num_classes = by_class.shape[-1]
            prior = torch.div(chosen, num_classes, rounding_mode="floor")
            decoded = decode(codes[i, prior].float(), priors[prior])
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
                is_finite=is_finite[i],
            )
        )
    return tuple(results)


def finite_images(prediction: DensePrediction) -> list[bool]:
    """Return for each image of the batch whether all its predictions are finite numbers."""
    tensors = [*prediction.logits, *prediction.box_codes, *(prediction.quality_logits or ())]
    finite = [tensor.isfinite().flatten(1).all(dim=1) for tensor in tensors]  # [b] each
    return [bool(value) for value in torch.stack(finite).all(dim=0)]


def _scores(prediction: DensePrediction, level: int, image: int) -> Tensor:
    """Return the scores [n k] of one level: with quality, the geometric mean of both."""
    probs = prediction.logits[level][image].float().sigmoid()
    if prediction.quality_logits is None:
        return probs
    quality = prediction.quality_logits[level][image].float().sigmoid()
    return (probs * quality[:, None]).sqrt()

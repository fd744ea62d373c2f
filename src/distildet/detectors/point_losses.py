"""Training losses of point heads, for targets with weights, ignore regions and unknown classes.

Equal to torchvision's FCOS losses when every weight and score is 1, nothing is ignored and all
classes are known.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxLinearCoder
from torchvision.ops import box_area, generalized_box_iou_loss, sigmoid_focal_loss

from distildet.ops.reduce import batch_normaliser
from distildet.ops.soft_focal_loss import soft_focal_loss
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, Targets

NEAREST_STRIDES = 4.0
FARTHEST_STRIDES = 8.0


def match_points(priors: Sequence[Tensor], targets: Targets, *, center_radius: float) -> Tensor:
    """Assign each location to a target box, to background, or to nothing.

    A box claims the points that lie strictly inside it, near its centre, and whose farthest side
    is between 4 and 8 strides away (from 0 on the first level, without end on the last); a
    distance on the border of two levels is of neither, as in torchvision. Of several boxes that
    claim a point the smallest has it, of equally small ones the first.

    A point that would be background is left out where an ignore region claims it by the same
    rule. A region drawn by a human is a crowd of many objects of any size: there, every point
    strictly inside is left out.

    Args:
        priors: Per level [n 4] float32 xyxy, squares of one stride around the points.
        targets: Of one image, batch frame.
        center_radius: A box claims points up to so many strides from its centre, in x and in y.

    Returns:
        [n] int64 over all levels: index of the box, BACKGROUND, or LEFT_OUT.
    """
    # torchvision ranks boxes by 1e8 - area, which is coarse in float32 and fails for larger boxes.
    by_area = torch.argsort(box_area(targets.boxes), stable=True)
    matched = []
    for level, squares in enumerate(priors):
        claims_of = partial(
            _claims,
            squares,
            center_radius=center_radius,
            nearest=NEAREST_STRIDES if level > 0 else 0.0,
            farthest=FARTHEST_STRIDES if level + 1 < len(priors) else float("inf"),
        )
        found = squares.new_full((len(squares),), BACKGROUND, dtype=torch.int64)
        if len(by_area):
            claims = claims_of(targets.boxes[by_area])  # [n m], smallest box first
            found = torch.where(claims.any(dim=1), by_area[claims.int().argmax(dim=1)], found)
        if targets.origin == "human":
            left_out = (_distances(squares, targets.ignore) > 0).all(dim=2).any(dim=1)
        else:
            left_out = claims_of(targets.ignore).any(dim=1)
        matched.append(torch.where(left_out & (found == BACKGROUND), LEFT_OUT, found))
    return torch.cat(matched)


def _claims(
    squares: Tensor, boxes: Tensor, *, center_radius: float, nearest: float, farthest: float
) -> Tensor:
    """Return which points [n] which boxes [m] claim, [n m] bool; bounds in strides."""
    distances = _distances(squares, boxes)
    strides = (squares[:, 2] - squares[:, 0])[:, None]  # [n 1]
    points, centers = _centers(squares), _centers(boxes)
    off_center = (points[:, None] - centers).abs().amax(dim=2)  # [n m]
    reach = distances.amax(dim=2)
    return (
        (distances > 0).all(dim=2)
        & (off_center < center_radius * strides)
        & (reach > nearest * strides)
        & (reach < farthest * strides)
    )


def _distances(squares: Tensor, boxes: Tensor) -> Tensor:
    """Return how far each box reaches to the left, top, right and bottom of the points, [n m 4]."""
    points = _centers(squares)[:, None]
    return torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=2)


def _centers(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def centerness(distances: Tensor) -> Tensor:
    """Return how central points lie in boxes: 1 at the centre, 0 on the sides and outside.

    Args:
        distances: [n 4], from the point to the left, top, right and bottom side, in any unit.

    Returns:
        [n], geometric mean of the ratios of the shorter to the longer distance in x and in y.
    """
    sides = distances.clamp(min=0).reshape(-1, 2, 2)  # [n, near or far corner, xy]
    tiny = torch.finfo(sides.dtype).tiny
    return (sides.amin(dim=1) / sides.amax(dim=1).clamp(min=tiny)).prod(dim=1).sqrt()


def point_losses(
    prediction: DensePrediction,
    targets: Sequence[Targets],
    matched: Tensor,
    *,
    box_coder: BoxLinearCoder,
) -> dict[str, Tensor]:
    """Compute focal classification, generalised IoU and centre-ness loss of a point head.

    Normaliser: the sums over the whole batch are divided by the number of foreground locations
    of the whole batch, at least 1, so images with many objects count more. The whole batch is
    that of all processes and micro-batches. A box's weight multiplies the terms of its locations
    but not the normaliser. Where a box has a score, that is the target of its class in place of 1,
    see `soft_focal_loss`; of the centre-ness it is none. Classes that nobody looked for add nothing
    to the classification loss.

    Args:
        prediction: Of a batch; sigmoid activation, with quality logits.
        targets: One an image, batch frame.
        matched: [b n] over all levels, as `match_points` returns it for each image.
        box_coder: Codes boxes as distances from points.

    Returns:
        "classification", "box" and "quality": float32 scalars with gradient, the last two 0
        without foreground.

    Raises:
        ValueError: The prediction has no quality logits.
    """
    if prediction.quality_logits is None:
        raise ValueError("The losses of a point head need a prediction with quality logits.")
    logits = torch.cat(prediction.logits, dim=1).float()  # [b n k]
    codes = torch.cat(prediction.box_codes, dim=1).float()  # [b n 4]
    quality = torch.cat(prediction.quality_logits, dim=1).float()  # [b n]
    image, location = torch.where(matched >= 0)  # [f], the foreground of the batch
    normaliser = batch_normaliser(logits.new_tensor(len(location)))
    boxes, labels, weights, scores = _targets_of(matched[image, location], image, targets)
    priors = torch.cat(prediction.priors)[location]

    wanted = torch.zeros_like(logits)
    wanted[image, location, labels] = 1.0
    location_weights = (matched != LEFT_OUT).to(logits.dtype)
    location_weights[image, location] = weights
    known = torch.stack([t.known_classes for t in targets]).to(logits.dtype)
    focal = sigmoid_focal_loss(logits, wanted)  # [b n k]
    if scores is not None:
        focal[image, location, labels] = soft_focal_loss(logits[image, location, labels], scores)
    focal = focal * location_weights[:, :, None]  # each line frees a tensor of this size
    focal = focal * known[:, None]
    box = generalized_box_iou_loss(box_coder.decode(codes[image, location], priors), boxes)
    central = F.binary_cross_entropy_with_logits(
        quality[image, location], centerness(box_coder.encode(priors, boxes)), reduction="none"
    )
    return {
        "classification": focal.sum() / normaliser,
        "box": (box * weights).sum() / normaliser,
        "quality": (central * weights).sum() / normaliser,
    }


def _targets_of(
    boxes_of: Tensor, image: Tensor, targets: Sequence[Targets]
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return boxes [f 4], labels [f], weights [f] and scores [f] of the foreground.

    The scores are None where those of all boxes of the batch are.

    Args:
        boxes_of: [f] index of the box within its image.
        image: [f] index of the image.
        targets: One an image.
    """
    counts = [0, *(len(t.boxes) for t in targets[:-1])]
    first = torch.tensor(counts, device=image.device).cumsum(dim=0)  # [b]
    index = first[image] + boxes_of
    scores = None
    if any(t.scores is not None for t in targets):
        scores = torch.cat(
            [torch.ones_like(t.weights) if t.scores is None else t.scores for t in targets]
        )[index]
    return (
        torch.cat([t.boxes for t in targets])[index],
        torch.cat([t.labels for t in targets])[index],
        torch.cat([t.weights for t in targets])[index],
        scores,
    )

"""Training losses of two-stage detectors, for targets with weights, ignore and unknown classes.

Equal to torchvision's Faster R-CNN losses when every weight and score is 1, nothing is ignored and
all classes are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, Matcher

from distildet.detectors.balanced_sampler import BalancedSampler
from distildet.detectors.dense_losses import match_anchors
from distildet.ops.reduce import batch_normaliser
from distildet.structures import BACKGROUND, LEFT_OUT, DensePrediction, RegionPrediction, Targets

SMOOTH_L1_BETA = 1 / 9  # Ren et al., arXiv 1506.01497, as Girshick's code sets it


@dataclass(frozen=True, kw_only=True)
class SampledRegions:
    """The regions of one image that the region head learns from, and undecided ones after these.

    Undecided are regions on a teacher's ignore regions, its detections too weak to be boxes. They
    are there to be compared with a teacher; the region losses neither read nor count them.

    Args:
        boxes: [n 4] xyxy, batch frame.
        matched: [n] int64, index of the target box, BACKGROUND, or LEFT_OUT of an undecided one.
    """

    boxes: Tensor
    matched: Tensor

    @property
    def learned(self) -> Tensor:
        """Return the boxes [m 4] of the regions that the region losses learn from."""
        return self.boxes[self.matched != LEFT_OUT]

    @property
    def undecided(self) -> Tensor:
        """Return the boxes [m 4] of the undecided regions."""
        return self.boxes[self.matched == LEFT_OUT]


def proposal_losses(
    prediction: DensePrediction,
    targets: Sequence[Targets],
    *,
    matcher: Matcher,
    sampler: BalancedSampler,
    generators: Sequence[torch.Generator],
    box_coder: BoxCoder,
) -> dict[str, Tensor]:
    """Compute the losses of a proposal network.

    Normaliser: the number of anchors drawn in the whole batch, at least 1. A box's weight
    multiplies the terms of its anchors but not the normaliser. In an image with classes that
    nobody looked for, no anchor is background: it may show one of these. Scores of boxes change
    nothing: a proposal is to find a box, and the region head says how sure it is of its class.

    Args:
        prediction: Of a batch, one logit an anchor.
        targets: One an image, batch frame.
        matcher: torchvision's IoU matcher.
        sampler: Draws anchors of each image.
        generators: One an image, what the sampler draws from.
        box_coder: Codes boxes relative to anchors.

    Returns:
        "objectness" (binary cross-entropy) and "proposal_box" (smooth L1 on codes): float32
        scalars with gradient.
    """
    logits = torch.cat(prediction.logits, dim=1)[..., 0].float()  # [b n]
    codes = torch.cat(prediction.box_codes, dim=1).float()  # [b n 4]
    anchors = torch.cat(prediction.priors)  # [n 4]
    matches = [_without_unsure_background(match_anchors(anchors, t, matcher), t) for t in targets]
    objectness, box = logits.new_zeros(()), codes.new_zeros(())
    num_drawn = 0
    for i, target in enumerate(targets):
        foreground, background = sampler(matches[i], generators[i])
        boxes_of = matches[i][foreground]
        weights = target.weights[boxes_of]
        objectness = (
            objectness
            + (F.softplus(-logits[i, foreground]) * weights).sum()
            + F.softplus(logits[i, background]).sum()
        )
        wanted = box_coder.encode_single(target.boxes[boxes_of], anchors[foreground])
        box = box + _box_sum(codes[i, foreground], wanted, weights)
        num_drawn += len(foreground) + len(background)
    normaliser = batch_normaliser(logits.new_tensor(num_drawn))
    return {"objectness": objectness / normaliser, "proposal_box": box / normaliser}


def sample_regions(
    proposals: Sequence[Tensor],
    targets: Sequence[Targets],
    *,
    matcher: Matcher,
    sampler: BalancedSampler,
    generators: Sequence[torch.Generator],
    with_undecided: bool = False,
) -> list[SampledRegions]:
    """Choose the regions that the region head learns from; the target boxes are among them.

    Undecided ones come in addition, at most as many as foreground may be, and are drawn last: the
    others are the same with and without them.

    Args:
        proposals: An image [n 4] xyxy, batch frame.
        targets: One an image, batch frame.
        matcher: torchvision's IoU matcher.
        sampler: Draws regions of each image.
        generators: One an image, what the sampler draws from.
        with_undecided: Whether, where a teacher drew the boxes, regions that the matching leaves
            out are chosen too.
    """
    regions = [
        torch.cat([boxes, target.boxes.to(boxes.dtype)])
        for boxes, target in zip(proposals, targets, strict=True)
    ]
    matches = [match_anchors(r, t, matcher) for r, t in zip(regions, targets, strict=True)]
    sampled = []
    for boxes, matched, target, generator in zip(
        regions, matches, targets, generators, strict=True
    ):
        chosen = torch.cat(sampler(matched, generator)).sort().values
        if with_undecided and target.origin == "teacher":
            chosen = torch.cat([chosen, sampler.left_out(matched, generator)])
        sampled.append(SampledRegions(boxes=boxes[chosen], matched=matched[chosen]))
    return sampled


def region_losses(
    prediction: RegionPrediction,
    sampled: Sequence[SampledRegions],
    targets: Sequence[Targets],
    *,
    columns: Sequence[int],
    box_coder: BoxCoder,
) -> dict[str, Tensor]:
    """Compute the losses of a region head with softmax over background and classes.

    Normaliser: the number of regions drawn in the whole batch, without undecided ones, at least 1.
    A box's weight multiplies the terms of its regions but not the normaliser. The target of a
    background region is "background or a class that nobody looked for": the probability of all of
    these together. Where a box has a score s, the target of its regions is its class with s and
    this background with 1 - s: the cross-entropy -s log p - (1-s) log b, which is least, though
    not 0, where p is s and b the rest.

    Args:
        prediction: Of the sampled regions, undecided ones included, all columns.
        sampled: One an image, as `sample_regions` returns them.
        targets: One an image, batch frame.
        columns: For each class its column, counted without background.
        box_coder: Codes boxes relative to regions.

    Returns:
        "classification" (cross-entropy) and "box" (smooth L1 on the codes of the class): float32
        scalars with gradient.
    """
    first = prediction.logits[0]
    classification = box = first.new_zeros((), dtype=torch.float32)
    column_of = torch.tensor(columns, device=first.device)
    num_drawn = 0
    for i, target in enumerate(targets):
        matched = sampled[i].matched
        foreground = torch.where(matched >= 0)[0]
        background = torch.where(matched == BACKGROUND)[0]
        boxes_of = matched[foreground]
        wanted_columns = column_of[target.labels[boxes_of]]
        weights = target.weights[boxes_of]
        log_probs = F.log_softmax(prediction.logits[i].float(), dim=1)  # [n 1+k]
        # Column 0 is the background.
        named = log_probs[foreground, 1 + wanted_columns]
        unnamed_columns = _background_columns(target, column_of)
        if target.scores is not None:
            scores = target.scores[boxes_of]
            unnamed = log_probs[foreground][:, unnamed_columns].logsumexp(1)
            named = scores * named + (1 - scores) * unnamed
        background_logs = log_probs[background][:, unnamed_columns].logsumexp(1)
        classification = classification - (named * weights).sum() - background_logs.sum()
        codes = prediction.box_codes[i][foreground, wanted_columns].float()
        regions = sampled[i].boxes[foreground]
        wanted = box_coder.encode_single(target.boxes[boxes_of], regions)
        box = box + _box_sum(codes, wanted, weights)
        num_drawn += len(foreground) + len(background)
    normaliser = batch_normaliser(classification.new_tensor(num_drawn))
    return {"classification": classification / normaliser, "box": box / normaliser}


def _background_columns(target: Targets, column_of: Tensor) -> Tensor:
    """Return the columns, background included, that a background region may belong to."""
    return torch.cat([column_of.new_zeros(1), 1 + column_of[~target.known_classes]])


def _without_unsure_background(matched: Tensor, target: Targets) -> Tensor:
    if bool(target.known_classes.all()):
        return matched
    left_out = torch.full_like(matched, Matcher.BETWEEN_THRESHOLDS)
    return torch.where(matched == BACKGROUND, left_out, matched)


def _box_sum(codes: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    loss = F.smooth_l1_loss(codes, wanted, beta=SMOOTH_L1_BETA, reduction="none").sum(1)
    return (loss * weights).sum()

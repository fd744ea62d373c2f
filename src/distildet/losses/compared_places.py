"""Which priors and regions of a batch take part in a comparison of student and teacher."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.structures import LEFT_OUT, ImageBatch, Targets


def priors_taking_part(
    levels: Sequence[Tensor],
    batch: ImageBatch,
    targets: Sequence[Targets],
    matched: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """Return per level [b n], whether a prior is on the image and not where a human left it open.

    On the image is its centre. Left open by a human are ignore regions, and what the student's own
    matching leaves out: anchors that overlap a box too much for background and too little for an
    object. A teacher's boxes and ignore regions, which are detections too weak to be boxes, leave
    nothing out: what it says there is what shall be learned.

    Args:
        levels: [n 4] xyxy each, batch frame.
        batch: The images.
        targets: One an image, batch frame.
        matched: Per level [b n], LEFT_OUT where the student's matching says so. None where there
            is none.
    """
    ends = _ends(batch, levels)
    by_human = torch.tensor([target.origin == "human" for target in targets], device=ends.device)
    parts = []
    for index, priors in enumerate(levels):
        part = _counts(priors, ends, targets)
        if matched is not None:
            part &= ~(by_human[:, None] & (matched[index] == LEFT_OUT))
        parts.append(part)
    return parts


def regions_taking_part(
    regions: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Targets]
) -> Tensor:
    """Return [m], whether a region is on the image and not where a human left it open.

    Args:
        regions: Of each image [n 4] xyxy, batch frame; m in all.
        batch: The images.
        targets: One an image, batch frame.
    """
    ends = _ends(batch, regions)
    return torch.cat(
        [
            _counts(boxes, ends[index : index + 1], [target])[0]
            for index, (boxes, target) in enumerate(zip(regions, targets, strict=True))
        ]
    )


def _ends(batch: ImageBatch, places: Sequence[Tensor]) -> Tensor:
    """Return [b 2], width and height of each image, on the device of the places."""
    return batch.sizes.to(places[0].device).flip(1)


def _counts(boxes: Tensor, ends: Tensor, targets: Sequence[Targets]) -> Tensor:
    """Return [b n], whose centres lie on an image and in no ignore region drawn by a human.

    Args:
        boxes: [n 4] xyxy, the same in all images.
        ends: [b 2], width and height of the images.
        targets: One an image.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2  # [n 2], x and y
    counts = (centers >= 0).all(1) & (centers < ends[:, None]).all(2)
    for index, target in enumerate(targets):
        if len(target.human_ignore):
            counts[index] &= ~_lie_inside(centers, target.human_ignore)
    return counts


def _lie_inside(points: Tensor, regions: Tensor) -> Tensor:
    """Return which points [n] lie strictly inside one of the regions."""
    after_start = (points[:, None] > regions[:, :2]).all(2)  # [n m]
    before_end = (points[:, None] < regions[:, 2:]).all(2)
    return (after_start & before_end).any(1)

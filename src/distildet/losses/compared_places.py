"""The places where student and teacher are compared: priors of dense heads, or regions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.errors import ConfigError
from distildet.structures import DensePrediction, ImageBatch, RegionPrediction, Targets


def comparable_priors(
    own: DensePrediction | None, guide: DensePrediction | None
) -> tuple[DensePrediction, DensePrediction]:
    """Return the predictions of both after checking that they stand for the same priors."""
    if own is None or guide is None:
        raise ValueError("The loss 'adaptive' needs the part 'dense' of student and teacher.")
    if own.activation != "sigmoid" or guide.activation != "sigmoid":
        raise ConfigError(
            f"loss 'adaptive': the activation of the student's logits is {own.activation}, of the "
            f"teacher's {guide.activation}. Accepted: sigmoid on both sides."
        )
    found, wanted = _prior_counts(own), _prior_counts(guide)
    if found != wanted:
        raise ConfigError(
            f"loss 'adaptive': the student has {found} priors on its levels, the teacher {wanted} "
            "on the same images. Both must have the same; take a student with the teacher's "
            "backbone levels and anchors."
        )
    return own, guide


def comparable_regions(
    own: RegionPrediction | None, guide: RegionPrediction | None
) -> tuple[RegionPrediction, RegionPrediction]:
    """Return the predictions of both after checking that they are of the same regions.

    Args:
        own: Of the student.
        guide: Of the teacher, which was given the student's regions.

    Raises:
        ValueError: A prediction is missing, or the teacher judged other regions.
    """
    if own is None or guide is None:
        raise ValueError("The loss 'adaptive' needs the part 'regions' of student and teacher.")
    if len(own.proposals) != len(guide.proposals) or not all(
        # As a rule they are the same tensors, which need not be read.
        one is other or torch.equal(one, other)
        for one, other in zip(own.proposals, guide.proposals, strict=True)
    ):
        raise ValueError(
            "The loss 'adaptive': the teacher judged other regions than the student. Give it the "
            'student\'s: given={"regions": output.regions}.'
        )
    return own, guide


def with_common_classes(logits: Tensor, columns: Tensor) -> Tensor:
    """Return logits [m c] of a softmax in which all columns but some are one, the background.

    To a detector that does not know a class, its objects are background. To leave the column out
    would teach of a truck what the teacher says of it if it is no truck: that it is a car.

    Args:
        logits: [m 1+k], background first.
        columns: [c], background first, then those of the classes that both know.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rest = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    rest[columns[1:]] = False
    background = logits[:, rest].logsumexp(1, keepdim=True)  # [m 1]
    return torch.cat([background, logits.index_select(1, columns[1:])], dim=1)


def regions_taking_part(
    regions: Sequence[Tensor], batch: ImageBatch, targets: Sequence[Targets]
) -> Tensor:
    """Return [m] as `priors_taking_part`, for the regions [n 4] of each image in turn."""
    return torch.cat(
        [
            priors_taking_part(boxes, batch.part(i, i + 1), [target])[0]
            for i, (boxes, target) in enumerate(zip(regions, targets, strict=True))
        ]
    )


def priors_taking_part(priors: Tensor, batch: ImageBatch, targets: Sequence[Targets]) -> Tensor:
    """Return [b n], whether a prior's centre is on the image and not where a human said "ignore".

    In ignore regions of a teacher only its detections were too weak to be boxes; what it says
    there is what shall be learned.
    """
    centers = (priors[:, :2] + priors[:, 2:]) / 2  # [n 2], x and y
    ends = batch.sizes.to(priors.device).flip(1)  # [b 2], width and height
    shown = (centers >= 0).all(1) & (centers < ends[:, None]).all(2)  # [b n]
    ignored = [
        _lie_inside(centers, target.ignore)
        if target.origin == "human"
        else torch.zeros_like(shown[0])
        for target in targets
    ]
    return shown & ~torch.stack(ignored)


def _lie_inside(points: Tensor, regions: Tensor) -> Tensor:
    """Return which points [n] lie strictly inside one of the regions."""
    after_start = (points[:, None] > regions[:, :2]).all(2)  # [n m]
    before_end = (points[:, None] < regions[:, 2:]).all(2)
    return (after_start & before_end).any(1)


def _prior_counts(prediction: DensePrediction) -> list[int]:
    return [logits.shape[1] for logits in prediction.logits]

"""Adaptive distillation: the student's class logits follow the teacher's where that is hard."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from distildet.classes import map_labels
from distildet.errors import ClassMapError, ConfigError, nearest_names
from distildet.losses.base import LOSSES, DistillationLoss, Needs
from distildet.ops.adaptive_sums import AdaptiveForm, adaptive_sums
from distildet.ops.reduce import batch_share, batch_total
from distildet.specs import DetectorSpec
from distildet.structures import (
    DENSE,
    FEATURES_NECK,
    DensePrediction,
    DetectorOutput,
    ImageBatch,
    Targets,
)

# Where the teacher sees nothing at all, the normaliser still counts so much for each image.
LEAST_OF_AN_IMAGE = 1.0
# The options of a detector that say where and how large its priors are begin so.
_PRIOR_OPTIONS = "anchor_"


@LOSSES.register("adaptive")
class Adaptive(DistillationLoss):
    """Pushes each class probability of the student, prior by prior, towards the teacher's.

    Nearly all of the many priors of a dense head are easy background. A prediction counts more
    where student and teacher disagree (hard to mimic) and where the teacher itself is undecided
    (hard to learn). No box is needed, so unlabeled images teach as labeled ones do. It does not
    help to place boxes.

    Formula:
        L = 1/N Σ A · KL                 form "paper"
        L = 1/N Σ A · (KL + T) / 2       form "official"
        A = (1 - exp(-(KL + beta T)))^gamma,  N = max(Σ q^theta, number of images)
        Σ: images, levels, priors and classes; KL: of the student's probability (sigmoid) from the
        teacher's q; T: entropy of q. Left out are priors whose centre lies in the padding or in an
        ignore region drawn by a human, and classes that only one of the two knows.

    Needs:
        student: dense · teacher: dense · the same priors on both sides, sigmoid heads · class
        lists may differ, at least one name must be common · boxes of targets not used

    Args:
        student: Facts of the student; levels, anchors and classes are read here.
        teacher: Facts of the teacher.
        form: "paper", or "official" as the authors' program computes it; both are smallest where
            the probabilities are equal.
        beta: Share of the teacher's entropy in the weight, >= 0.
        gamma: Power of the weight, >= 0; 0 weighs all predictions the same.
        theta: Power of the teacher's probabilities in the normaliser, >= 0; larger counts
            background less.

    Shape:
        logits per level [b n k_s] of the student, [b n k_t] of the teacher, with equal n.

    Returns:
        "classification": scalar in nats, >= 0, unweighted, float32; in the form "paper" 0 where
        the probabilities are equal, in the form "official" then Σ A T / 2 / N. Normalised over the
        whole batch, micro-batches and processes included; N is at least 1 an image.

    Gradient:
        To the student only, through the weight A too; none through N. It has no gradient itself.

    Raises:
        MissingPartError: One of the two has no dense head.
        ClassMapError: The two have no class in common.
        ConfigError: Their priors differ, or an option has no meaning. In `forward`: the outputs
            differ in levels or priors, or are no sigmoid logits.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366; "official": the authors' CUDA operation,
        Tangshitao/Semi-supervised-Adaptive-Distillation.
        Checked against: values by hand, a loop in float64, and the closed form of the gradient.
        Differs: from logits, not stored probabilities; N over the whole batch, at least 1 an image
        (theirs: over one GPU, at least 1), without what is left out; the priors that their program
        leaves out are those near a box's border (overlap 0.4 to 0.5), which here take part.
    """

    needs = Needs(student=frozenset({DENSE}), teacher=frozenset({DENSE}))
    # The form "paper" alone is.
    is_zero_at_equality = False

    own_labels: Tensor
    guide_labels: Tensor

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        form: AdaptiveForm = "paper",
        beta: float = 1.0,
        gamma: float = 2.0,
        theta: float = 1.8,
    ) -> None:
        super().__init__(student, teacher)
        _check_options(form, beta=beta, gamma=gamma, theta=theta)
        _check_priors(student, teacher)
        own, guide = _common_labels(student, teacher)
        # Not in checkpoints: the class lists say them.
        self.register_buffer("own_labels", torch.tensor(own), persistent=False)
        self.register_buffer("guide_labels", torch.tensor(guide), persistent=False)
        self.are_all_compared = _are_all(own, student) and _are_all(guide, teacher)
        self.form: AdaptiveForm = form
        self.beta = beta
        self.gamma = gamma
        self.theta = theta

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Return "classification"; see `DistillationLoss.forward`."""
        own, guide = _comparable(student.dense, teacher.dense)
        labels = None if self.are_all_compared else (self.own_labels, self.guide_labels)
        sums = [
            adaptive_sums(
                logits,
                teacher_logits,
                _taking_part(priors, batch, targets),
                form=self.form,
                beta=self.beta,
                gamma=self.gamma,
                theta=self.theta,
                labels=labels,
            )
            for logits, teacher_logits, priors in zip(
                own.logits, guide.logits, own.priors, strict=True
            )
        ]
        value, mass = (torch.stack(levels).sum().float() for levels in zip(*sums, strict=True))
        images = mass.new_tensor(LEAST_OF_AN_IMAGE * len(batch))
        total, least = batch_total(torch.stack([mass, images]))
        return {"classification": value / (torch.maximum(total, least) * batch_share())}


def _check_options(form: AdaptiveForm, **numbers: float) -> None:
    if form not in get_args(AdaptiveForm):
        raise ConfigError(f"form: found {form!r}. {nearest_names(form, get_args(AdaptiveForm))}")
    for name, number in numbers.items():
        if not (math.isfinite(number) and number >= 0):
            raise ConfigError(f"{name}: found {number}. Accepted: a finite number of 0 or more.")


def _check_priors(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse a pair of which not every prior of the one is a prior of the other.

    Raises:
        ConfigError: Families, levels or anchors differ.
    """
    own, guide = _priors_of(student), _priors_of(teacher)
    if own == guide:
        return
    # Another family has options of its own; its name says enough.
    names = ["family"] if student.family != teacher.family else list({**own, **guide})
    differing = [name for name in names if own.get(name) != guide.get(name)]
    raise ConfigError(
        "the logits of both are compared prior by prior, and their priors differ. The student has "
        f"{_listed(own, differing)}; the teacher has {_listed(guide, differing)}. Accepted: a "
        "student of the teacher's family with its levels (backbone_levels, extra_levels) and "
        "anchors."
    )


def _priors_of(spec: DetectorSpec) -> dict[str, Any]:
    """Return what the priors of a dense head depend on, by name, as it reads in a message."""
    levels = spec.levels_of(FEATURES_NECK).values()
    listed = ", ".join(f"{level.name} (stride {level.stride})" for level in levels)
    # Values, not texts: an anchor scale of 4 is one of 4.0.
    anchors = {n: value for n, value in spec.options.items() if n.startswith(_PRIOR_OPTIONS)}
    return {"family": spec.family, "levels": listed, **anchors}


def _listed(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {facts.get(name, 'not given')}" for name in names)


def _common_labels(student: DetectorSpec, teacher: DetectorSpec) -> tuple[list[int], list[int]]:
    """Return the labels of the student and of the teacher that mean the same class, in pairs.

    Raises:
        ClassMapError: There is none.
    """
    labels = map_labels(teacher.classes, student.classes)
    pairs = [(own, guide) for guide, own in enumerate(labels) if own is not None]
    if not pairs:
        raise ClassMapError(
            "student and teacher have no class of the same name. The student has "
            f"{', '.join(student.classes)}; the teacher has {', '.join(teacher.classes)}. At least "
            "one class must be common; rename the classes of the labeled images."
        )
    return [own for own, _ in pairs], [guide for _, guide in pairs]


def _are_all(labels: Sequence[int], spec: DetectorSpec) -> bool:
    return list(labels) == list(range(len(spec.classes)))


def _comparable(
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


def _prior_counts(prediction: DensePrediction) -> list[int]:
    return [logits.shape[1] for logits in prediction.logits]


def _taking_part(priors: Tensor, batch: ImageBatch, targets: Sequence[Targets]) -> Tensor:
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

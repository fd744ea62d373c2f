"""Adaptive distillation: the student's class logits follow the teacher's where that is hard."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from distildet.classes import map_labels
from distildet.errors import ClassMapError, ConfigError, MissingPartError, nearest_names
from distildet.losses.base import LOSSES, DistillationLoss, Needs
from distildet.losses.compared_places import (
    comparable_priors,
    comparable_regions,
    priors_taking_part,
    regions_taking_part,
    with_common_classes,
)
from distildet.ops.adaptive_region_sums import adaptive_region_sums
from distildet.ops.adaptive_sums import AdaptiveForm, adaptive_sums
from distildet.ops.reduce import batch_share, batch_total
from distildet.specs import DetectorSpec
from distildet.structures import (
    DENSE,
    FEATURES_NECK,
    REGIONS,
    DetectorOutput,
    ImageBatch,
    Targets,
)

# Where the teacher sees nothing at all, the normaliser still counts so much for each image.
LEAST_OF_AN_IMAGE = 1.0
# The options of a detector that say where and how large its priors are begin so.
_PRIOR_OPTIONS = "anchor_"

_OF_PRIORS = Needs(student=frozenset({DENSE}), teacher=frozenset({DENSE}))
_OF_REGIONS = Needs(
    student=frozenset({REGIONS}), teacher=frozenset({REGIONS}), given=frozenset({REGIONS})
)


@LOSSES.register("adaptive")
class Adaptive(DistillationLoss):
    """Pushes the class probabilities of the student, place by place, towards the teacher's.

    The places are the priors of dense heads or, of two-stage detectors, the regions that the
    student learns from, which the teacher's region head judges too. Nearly all are easy
    background. A prediction counts more where student and teacher disagree (hard to mimic) and
    where the teacher itself is undecided (hard to learn). No box is needed, so unlabeled images
    teach as labeled ones do. It does not help to place boxes.

    Formula:
        L = 1/N Σ A · KL                 form "paper"
        L = 1/N Σ A · (KL + T) / 2       form "official"
        A = (1 - exp(-(KL + beta T)))^gamma,  N = max(Σ q^theta, number of images)
        Dense heads: Σ: images, levels, priors and classes; KL: of the student's probability
        (sigmoid) from the teacher's q; T: entropy of q.
        Region heads: Σ: images and regions; KL: of the student's probabilities (softmax over
        background and classes) from the teacher's q; T: entropy of q, times log 2 / log(1+k) so
        that it is at most log 2 as above; N has 1 - q(background) for q.
        Left out are priors and regions whose centre lies in the padding or in an ignore region
        drawn by a human. Classes that only one of the two knows are left out of dense heads; of
        region heads they count as background.

    Needs:
        student: dense · teacher: dense · the same priors on both sides, sigmoid heads; or
        student: regions · teacher: regions, given the student's · class lists may differ, at
        least one name must be common · boxes of targets not used

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
        logits per level [b n k_s] of the student, [b n k_t] of the teacher, with equal n; of
        regions per image [n 1+k_s] and [n 1+k_t].

    Returns:
        "classification": scalar in nats, >= 0, unweighted, float32; in the form "paper" 0 where
        the probabilities are equal, in the form "official" then Σ A T / 2 / N. Normalised over the
        whole batch, micro-batches and processes included; N is at least 1 an image.

    Gradient:
        To the student only, through the weight A too; none through N, nor to where the regions
        are. That of a dense head has no gradient itself.

    Raises:
        MissingPartError: The two have not the same kind of head, dense or region.
        ClassMapError: The two have no class in common.
        ConfigError: Their priors differ, or an option has no meaning. In `forward`: the outputs
            differ in levels or priors, or are no sigmoid logits.
        ValueError: In `forward`: the teacher judged other regions than the student's.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366; "official": the authors' CUDA operation,
        Tangshitao/Semi-supervised-Adaptive-Distillation.
        Checked against: values by hand, a loop in float64, and the closed form of the gradient.
        Differs: from logits, not stored probabilities; N over the whole batch, at least 1 an image
        (theirs: over one GPU, at least 1), without what is left out; the priors that their program
        leaves out are those near a box's border (overlap 0.4 to 0.5), which here take part. Of
        region heads the paper says nothing: T, N and background are ours.
    """

    needs = _OF_PRIORS
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
        _check_heads(student, teacher)
        super().__init__(student, teacher)
        _check_options(form, beta=beta, gamma=gamma, theta=theta)
        own, guide = _common_labels(student, teacher)
        self.are_all_compared = _are_all(own, student) and _are_all(guide, teacher)
        if self.needs == _OF_REGIONS:
            own, guide = _with_background(own), _with_background(guide)
        else:
            _check_priors(student, teacher)
        # Places in the logits; not in checkpoints, for the class lists say them.
        self.register_buffer("own_labels", torch.tensor(own), persistent=False)
        self.register_buffer("guide_labels", torch.tensor(guide), persistent=False)
        self.form: AdaptiveForm = form
        self.beta = beta
        self.gamma = gamma
        self.theta = theta

    @classmethod
    def needs_of(cls, student: DetectorSpec, teacher: DetectorSpec) -> Needs:
        """Return regions where both detectors have them, else dense predictions."""
        return _OF_REGIONS if REGIONS in student.parts & teacher.parts else _OF_PRIORS

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Return "classification"; see `DistillationLoss.forward`."""
        sums = self._region_sums if self.needs == _OF_REGIONS else self._prior_sums
        value, mass = sums(student, teacher, batch, targets)
        images = mass.new_tensor(LEAST_OF_AN_IMAGE * len(batch))
        total, least = batch_total(torch.stack([mass, images]))
        return {"classification": value / (torch.maximum(total, least) * batch_share())}

    def _region_sums(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> tuple[Tensor, Tensor]:
        own_regions, guide_regions = comparable_regions(student.regions, teacher.regions)
        chosen = regions_taking_part(own_regions.proposals, batch, targets)
        own, guide = torch.cat(own_regions.logits), torch.cat(guide_regions.logits)  # [m 1+k]
        if not self.are_all_compared:
            own = with_common_classes(own, self.own_labels)
            guide = with_common_classes(guide, self.guide_labels)
        value, mass = adaptive_region_sums(
            own[chosen],
            guide[chosen],
            form=self.form,
            beta=self.beta,
            gamma=self.gamma,
            theta=self.theta,
        )
        return value.float(), mass.float()

    def _prior_sums(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> tuple[Tensor, Tensor]:
        own, guide = comparable_priors(student.dense, teacher.dense)
        labels = None if self.are_all_compared else (self.own_labels, self.guide_labels)
        sums = [
            adaptive_sums(
                logits,
                teacher_logits,
                priors_taking_part(priors, batch, targets),
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
        return value, mass


def _check_heads(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse a pair of which the one has a dense and the other a region head.

    Raises:
        MissingPartError: That is so.
    """
    if {student.head, teacher.head} == {"dense", "region"}:
        raise MissingPartError(
            f"the student {student.family!r} has a {student.head} head, the teacher "
            f"{teacher.family!r} a {teacher.head} head. Accepted: dense heads of the same family, "
            "or region heads, on both sides."
        )


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


def _with_background(labels: Sequence[int]) -> list[int]:
    """Return the columns of a region head that stand for background and these labels."""
    return [0, *(1 + label for label in labels)]


def _are_all(labels: Sequence[int], spec: DetectorSpec) -> bool:
    return list(labels) == list(range(len(spec.classes)))

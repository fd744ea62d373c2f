"""Adaptive distillation: the student's class logits follow the teacher's where that is hard."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.losses.adaptive_options import (
    THETA,
    AdaptiveOptions,
    Form,
    Normaliser,
    PriorChoice,
)
from distildet.losses.base import LOSSES, DistillationLoss, Needs
from distildet.losses.comparable import (
    check_equal_heads,
    check_equal_priors,
    comparable_priors,
    comparable_regions,
)
from distildet.losses.compared_classes import (
    are_all,
    common_labels,
    with_background,
    with_common_classes,
)
from distildet.losses.compared_places import priors_taking_part, regions_taking_part
from distildet.ops.adaptive_region_sum import adaptive_region_sum
from distildet.ops.adaptive_sums import AdaptiveForm, adaptive_sums
from distildet.ops.focal_kl import focal_kl_sums
from distildet.ops.reduce import batch_share, batch_total
from distildet.specs import DetectorSpec
from distildet.structures import (
    DENSE,
    REGIONS,
    DensePrediction,
    DetectorOutput,
    ImageBatch,
    Targets,
)

# Where the teacher sees nothing at all, the normaliser still counts so much for each image.
LEAST_OF_AN_IMAGE = 1.0

_OF_PRIORS = Needs(student=frozenset({DENSE}), teacher=frozenset({DENSE}))
_OF_REGIONS = Needs(
    student=frozenset({REGIONS}), teacher=frozenset({REGIONS}), given=frozenset({REGIONS})
)


@LOSSES.register("adaptive")
class Adaptive(DistillationLoss):
    """Pushes the class probabilities of the student, place by place, towards the teacher's.

    The places are the priors of dense heads or, of two-stage detectors, the regions that the
    student learns from and those about which pseudo labels are undecided, which the teacher's
    region head judges too. Nearly all are easy background. A prediction counts more where student
    and teacher disagree (hard to mimic) and where the teacher itself is undecided (hard to learn).
    No box is needed, so unlabeled images teach as labeled ones do. It does not help to place boxes.

    Formula:
        L = 1/N Σ A · KL                 form "paper"
        L = 1/N Σ A · (KL + T) / 2       form "official"
        A = (1 - exp(-(KL + beta T)))^gamma
        Dense heads: Σ: images, levels, priors and classes; KL: of the student's probability
        (sigmoid) from the teacher's q; T: entropy of q; N = Σ q^theta.
        Region heads: Σ: images and regions; KL: of the student's probabilities (softmax over
        background and classes) from the teacher's q; T: entropy of q, times log 2 / log(1+k) so
        that it is at most log 2 as above; N: the number of regions, as of the detector's own loss.
        N is at least 1 an image.
        Left out are priors and regions whose centre lies in the padding or in an ignore region
        drawn by a human, and priors that the student's matching to a human's boxes leaves out.
        Classes that only one of the two knows are left out of dense heads; of region heads they
        count as background.
        What the paper compares it with: beta 0, which weighs by disagreement alone; on dense heads
        form "focal", A = (1 - p_t)^gamma, where p_t is the student's probability p of an object
        and 1 - p of background; gamma 0, A = 1.

    Needs:
        student: dense · teacher: dense · the same priors on both sides, sigmoid heads; or
        student: regions · teacher: regions, given the student's · class lists may differ, at
        least one name must be common · boxes are not needed, but for form "focal", `priors`
        "positive" and `normaliser` "positives"; a human's leave priors out, as above

    Args:
        student: Facts of the student; levels, anchors and classes are read here.
        teacher: Facts of the teacher.
        form: "paper", or "official" as the authors' program computes it; both are smallest where
            the probabilities are equal. "focal", for comparison on dense heads, is slower and
            takes more memory.
        beta: Share of the teacher's entropy in the weight, >= 0; not read by the form "focal".
        gamma: Power of the weight, >= 0; 0 weighs all predictions the same.
        theta: Power of the teacher's probabilities in the normaliser of dense heads, >= 0; larger
            counts background less.
        priors: "all", or "positive": those that the student's own matching gives to a box of a
            class that is compared.
        normaliser: "mass" for N, or "positives": the number of positive priors in place of the sum
            of q^theta, at least 1 an image too.

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
        ConfigError: Their priors differ, or an option has no meaning, or none for region heads. In
            `forward`: the outputs differ in levels or priors, or are no sigmoid logits.
        ValueError: In `forward`: the teacher judged other regions than the student's, or an option
            needs boxes, and the student was given none to match.

    Source:
        Tang et al., "Learning Efficient Detector with Semi-supervised Adaptive Distillation",
        BMVC 2019, arXiv 1901.00366; "official": the authors' CUDA operation,
        Tangshitao/Semi-supervised-Adaptive-Distillation.
        Checked against: values by hand, a loop in float64, and the closed form of the gradient.
        Differs: from logits, not stored probabilities; N over the whole batch, at least 1 an image
        (theirs: over one GPU, at least 1), without what is left out; a teacher's boxes leave no
        priors out (in theirs, as a human's). Of region heads the paper says nothing: T, N and
        background are ours.
    """

    needs = _OF_PRIORS

    own_labels: Tensor
    guide_labels: Tensor

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        form: Form = "paper",
        beta: float = 1.0,
        gamma: float = 2.0,
        theta: float = THETA,
        priors: PriorChoice = "all",
        normaliser: Normaliser = "mass",
    ) -> None:
        check_equal_heads(student, teacher)
        super().__init__(student, teacher)
        self.options = AdaptiveOptions(
            form=form,
            beta=beta,
            gamma=gamma,
            theta=theta,
            priors=priors,
            normaliser=normaliser,
        )
        self.is_zero_at_equality = form != "official"
        own, guide = common_labels(student, teacher)
        self.are_all_compared = are_all(own, student) and are_all(guide, teacher)
        if self.needs == _OF_REGIONS:
            self.options.form_of_regions()
            own, guide = with_background(own), with_background(guide)
        else:
            check_equal_priors(student, teacher)
        # Places in the logits; not in checkpoints, for the class lists say them.
        self.register_buffer("own_labels", torch.tensor(own), persistent=False)
        self.register_buffer("guide_labels", torch.tensor(guide), persistent=False)

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
        own = torch.stack([mass, mass.new_tensor(LEAST_OF_AN_IMAGE * len(batch))])
        total, least = batch_total(own)
        return {"classification": value / (torch.maximum(total, least) * batch_share())}

    def _region_sums(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of weighted divergences, and the number of regions."""
        own_regions, guide_regions = comparable_regions(
            student.regions, teacher.regions, loss="adaptive"
        )
        chosen = regions_taking_part(own_regions.proposals, batch, targets)
        own, guide = torch.cat(own_regions.logits), torch.cat(guide_regions.logits)  # [m 1+k]
        if not self.are_all_compared:
            own = with_common_classes(own, self.own_labels)
            guide = with_common_classes(guide, self.guide_labels)
        value = adaptive_region_sum(
            own[chosen],
            guide[chosen],
            form=self.options.form_of_regions(),
            beta=self.options.beta,
            gamma=self.options.gamma,
        ).float()
        return value, chosen.sum().to(value.dtype)

    def _prior_sums(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of weighted divergences, and the teacher's mass."""
        own, guide = comparable_priors(student.dense, teacher.dense, loss="adaptive")
        parts = priors_taking_part(own.priors, batch, targets, own.matched_labels)
        form = self.options.own_form
        if form is None or self.options.reads_positives:
            sums = self._sums_by_boxes(form, own, guide, parts, targets)
        else:
            sums = [
                self._level_sums(form, *level)
                for level in zip(own.logits, guide.logits, parts, strict=True)
            ]
        value, mass = (torch.stack(levels).sum().float() for levels in zip(*sums, strict=True))
        return value, mass

    def _level_sums(
        self, form: AdaptiveForm, own: Tensor, guide: Tensor, part: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the sum of weighted divergences of a level, and the teacher's mass."""
        return adaptive_sums(
            own,
            guide,
            part,
            form=form,
            beta=self.options.beta,
            gamma=self.options.gamma,
            theta=self.options.theta,
            labels=None if self.are_all_compared else (self.own_labels, self.guide_labels),
        )

    def _sums_by_boxes(
        self,
        form: AdaptiveForm | None,
        own: DensePrediction,
        guide: DensePrediction,
        parts: Sequence[Tensor],
        targets: Sequence[Targets],
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the same with the options that read which box a prior is matched to."""
        if own.matched_labels is None:
            raise ValueError(
                "The loss 'adaptive' with form: focal, priors: positive or normaliser: positives "
                "needs the student's priors matched to boxes. Call the student with targets, one "
                "for each image of the batch."
            )
        known = torch.stack([target.known_classes for target in targets])  # [b k]
        sums = []
        for logits, teacher_logits, part, matched in zip(
            own.logits, guide.logits, parts, own.matched_labels, strict=True
        ):
            positive = part & torch.isin(matched, self.own_labels)
            chosen = positive if self.options.takes_positives_alone else part
            if form is None:
                value, mass = focal_kl_sums(
                    logits,
                    teacher_logits,
                    chosen,
                    matched=matched,
                    known=known,
                    labels=(self.own_labels, self.guide_labels),
                    gamma=self.options.gamma,
                    theta=self.options.theta,
                )
            else:
                value, mass = self._level_sums(form, logits, teacher_logits, chosen)
            if self.options.counts_positives:
                mass = positive.sum().to(mass.dtype)
            sums.append((value, mass))
        return sums

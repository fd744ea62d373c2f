"""Global knowledge: student and teacher describe objects alike, by prototypes common to both."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from distildet.errors import DistildetError
from distildet.losses.base import LOSSES, DistillationLoss, Needs, Observation, Preparation
from distildet.losses.feature_difference import compared_levels
from distildet.losses.global_knowledge.object_features import object_features
from distildet.losses.global_knowledge.options import (
    GlobalKnowledgeOptions,
    KnowledgeTerm,
    PrototypeChoice,
    Variant,
)
from distildet.losses.global_knowledge.prototype_bank import Agreement, PrototypeBank
from distildet.losses.global_knowledge.reliable_features import ReliableFeatures
from distildet.losses.global_knowledge.responses import Responses
from distildet.losses.object_sizes import relative_sides
from distildet.losses.weighted_sum import WeightedSum, weighted_means
from distildet.ops.prototype_coordinates import Projection
from distildet.specs import DetectorSpec
from distildet.structures import FEATURES_NECK, DetectorOutput, ImageBatch, Targets

LEAST_SIDE = 30 / 800
"""Of an instance's box, as a share of the image's shorter side, to be a prototype."""


@LOSSES.register("global-knowledge")
class GlobalKnowledge(DistillationLoss):
    """Pushes the student to place objects among prototypes as the teacher does.

    Prototypes are a few instances of each class that describe all others well in the feature
    spaces of both networks. An object's coordinates relative to them mean the same in both
    spaces, whatever their channels; where they differ much, the object is blurred, hidden or small
    and what the teacher says about it is not to be relied on. Coordinates are distilled, and
    features and class probabilities the more, the more reliable the object is.

    Formula:
        per level; f: mean of a neck map over an object's box (RoIAlign), norm 1; G_c: prototypes of
        class c, chosen anew every `refresh` passes
        "paper":    phi = projection of f on G_c;  rho = 1 - |phi_s - phi_t|, within 0..1
                    global = mean_objects rho |phi_s - phi_t|² / (2 K_c), mean over levels
                    feature = Σ M |a(S) - T|² / (2 V Σ M), mean over levels; a: 1x1, then ReLU
                    response = mean_places rho KL
        "official": c = cosines of f to all prototypes;  rho = 1 - |max_c c_s - max_c c_t|, over
                    those of its class, within 0..1
                    global = mean smoothL1(rho c_s, rho c_t), sum over levels
                    feature = as above with a: 3x3, + background * Σ_outside |a(S) - T|² /
                    (2 V cells)
                    response = mean_places rho KL at temperature 2, mean over classes, times 4
        M: in each cell rho of the smallest box there ("official": on the level of the box's size),
        0 outside; V: the teacher's variance, of a cell. Places: priors the student's matching gives
        to a box, or its regions that overlap one by half; rho is that of the box of its
        label that it overlaps most, mean over levels.
        KL of dense heads is summed over classes, each yes or no ("official": softmax over classes).

    Needs:
        student: features.neck · teacher: features.neck · at least one pyramid level on both sides;
        term "response": dense with the same priors, or regions, given the student's, on both
        sides, and a common class · objects are those of the targets: a human's, or a teacher's

    Args:
        student: Facts of the student; channels and classes are read here.
        teacher: Facts of the teacher.
        variant: Definitions and weights: "paper", or "official" as in the authors' program.
        terms: Of "global", "feature" and "response"; None for all that the pair allows. A term
            with a factor of 0 is left out too.
        prototypes: "pursuit"; or for comparison "kmeans" (centres of clusters), "random".
        num_prototypes: K, most prototypes of a class and level; a third of its instances at most.
        agreement: lambda of the pursuit, weight of equal coordinates in both spaces, above 0.
        refresh: T, passes over the images after which prototypes are chosen anew.
        instances: Objects of each class that prototypes are chosen from, where there are so many;
            beside a loss that wants more, more.
        projection: "cosine", "ridge" or "pursuit"; None for that of the variant.
        global_weight: Factor of the global term; None for that of the variant, as below.
        feature_weight: Of the feature term, inside boxes.
        background_weight: Of the feature term, outside of boxes.
        response_weight: Of the response term.
        levels: Pyramid levels compared, such as ("P3", "P4"), which both must have; None for all
            that both have.

    Shape:
        student feature [b, c_s, h_s, w_s], teacher feature [b, c_t, h_t, w_t] per level.

    Returns:
        "global", "feature" and "response", those of `terms`: scalars >= 0, times the factor of each
        term, float32. Normalised over the whole batch, micro-batches and processes included.

    Gradient:
        To student and projectors only; none through reliability or prototypes.

    Raises:
        MissingPartError: A level is missing on one side, or a term in `terms` needs other heads.
        ConfigError: An option has no meaning, or "response" is asked for and priors differ.
        ClassMapError: "response" is asked for and no class is common.

    Source:
        Tang, Zhang, Peng, Li, "Distilling Object Detectors with Global Knowledge", ECCV 2022, arXiv
        2210.09022; "official": the authors' program.
        Checked against: values by hand, a loop in float64; the pursuit against brute force.
        Differs: features are divided by the teacher's variance, which both leave as they are, and
        of dense heads averaged over levels; RoIAlign for cropped cells; a chosen instance is not
        chosen again; rho within 0..1; objects are boxes of targets, not positive proposals; rho of
        a place is that of its object; the smallest of overlapping boxes is seen; padding and what a
        human ignores is no background. How the paper projects is not told; "pursuit" is ours.
    """

    needs = Needs(student=frozenset({FEATURES_NECK}), teacher=frozenset({FEATURES_NECK}))

    def __init__(
        self,
        student: DetectorSpec,
        teacher: DetectorSpec,
        *,
        variant: Variant = "official",
        terms: tuple[KnowledgeTerm, ...] | None = None,
        prototypes: PrototypeChoice = "pursuit",
        num_prototypes: int = 10,
        agreement: float = 10.0,
        refresh: float = 1.0,
        instances: int = 800,
        projection: Projection | None = None,
        global_weight: float | None = None,
        feature_weight: float | None = None,
        background_weight: float | None = None,
        response_weight: float | None = None,
        levels: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.options = GlobalKnowledgeOptions(
            variant=variant,
            terms=terms,
            prototypes=prototypes,
            num_prototypes=num_prototypes,
            agreement=agreement,
            refresh=refresh,
            instances=instances,
            projection=projection,
            global_weight=global_weight,
            feature_weight=feature_weight,
            background_weight=background_weight,
            response_weight=response_weight,
        )
        asked = compared_levels(student, teacher, levels)
        own, guide = student.levels_of(FEATURES_NECK), teacher.levels_of(FEATURES_NECK)
        # Finest first, however they are listed: objects are seen on levels by their size.
        self.levels = tuple(level for level in own if level in asked)
        self.preparation = Preparation(
            parts=frozenset({FEATURES_NECK}),
            every=refresh,
            objects=instances,
            least_side=LEAST_SIDE,
        )
        self.class_names = tuple(student.classes)
        self.remarks_on_pair: tuple[str, ...] = ()
        self.responses = self._make_responses(student, teacher)
        self.remarks = self.remarks_on_pair
        if self.responses is not None:
            own_needs = self.responses.needs
            self.needs = Needs(
                student=own_needs.student | {FEATURES_NECK},
                teacher=own_needs.teacher | {FEATURES_NECK},
                given=own_needs.given,
            )
        channels = {level: (own[level].channels, guide[level].channels) for level in self.levels}
        self.banks = nn.ModuleDict(
            {
                level: PrototypeBank(len(student.classes), *pair, self.options)
                for level, pair in channels.items()
            }
        )
        self.reliable_features = (
            ReliableFeatures(channels, self.options) if self.options.has("feature") else None
        )
        # ReLU takes what is below 0 from the student's side alone.
        self.is_zero_at_equality = variant == "official" or self.reliable_features is None

    def observe(
        self, output: DetectorOutput, batch: ImageBatch, targets: Sequence[Targets]
    ) -> Observation:
        """Return the instances' features of every level, labels, and which are large enough."""
        boxes = [target.boxes for target in targets]
        return {
            **{level: object_features(output, level, batch, boxes) for level in self.levels},
            "labels": torch.cat([target.labels for target in targets]),
            # Again, though asked for: in a view, whose sides are whole pixels, what was just large
            # enough may not be, and another loss may want smaller objects.
            "counts": relative_sides(batch, boxes).amin(1) > LEAST_SIDE,
        }

    def prepare(
        self, student: Sequence[Observation], teacher: Sequence[Observation]
    ) -> Mapping[str, Any]:
        """Choose the prototypes of every class and level; see `DistillationLoss.prepare`.

        Returns:
            "instances": by class, how many they were chosen from; "not_finite": how many were left
            out, since a feature is not finite; "prototypes": by level, how many of all classes.
        """
        banks = self._banks().items()
        own = _joined(student, {level: bank.own_maps.shape[2] for level, bank in banks})
        guide = _joined(teacher, {level: bank.guide_maps.shape[2] for level, bank in banks})
        labels, counts = guide["labels"], guide["counts"]
        # One feature that is not finite would spoil the choice for its whole class.
        is_finite = torch.stack(
            [one[level].isfinite().all(1) for one in (own, guide) for level, _ in banks]
        ).all(0)
        lost, counts = int((counts & ~is_finite).sum()), counts & is_finite
        for level, bank in banks:
            bank.fill(own[level], guide[level], labels, counts)
        numbers = labels[counts].bincount(minlength=len(self.class_names)).tolist()
        self.remarks = (*self.remarks_on_pair, *_remarks_on_classes(self.class_names, numbers))
        return {
            "instances": dict(zip(self.class_names, numbers, strict=True)),
            "not_finite": lost,
            "prototypes": {level: int(bank.is_filled.sum()) for level, bank in banks},
        }

    def chosen(self) -> Mapping[str, Sequence[int]]:
        """Return by class the instances that its prototypes are, or are nearest to.

        Those of the first level come first, each once; a class without prototypes has no entry.
        """
        found = {}
        for label, name in enumerate(self.class_names):
            of_levels = [
                bank.chosen[label][bank.is_filled[label]] for bank in self._banks().values()
            ]
            numbers = list(dict.fromkeys(torch.cat(of_levels).tolist()))
            if numbers:
                found[name] = numbers
        return found

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Tensor]:
        """Return the parts named by `terms`; see `DistillationLoss.forward`."""
        found = self._compare_objects(student, teacher, batch, targets)
        sums: dict[str, list[WeightedSum]] = {}
        if self.options.has("global"):
            num_summed = 1 if self.options.variant == "official" else len(found)
            factor = self.options.weight("global") / num_summed
            sums["global"] = [
                WeightedSum(value=one.difference, count=one.count, factor=factor)
                for one in found.values()
            ]
        if self.reliable_features is not None:
            sums["feature"] = self.reliable_features(
                {level: (student.features[level], teacher.features[level]) for level in found},
                batch,
                targets,
                {level: one.reliability for level, one in found.items()},
            )
        if self.responses is not None:
            mean = torch.stack([one.reliability for one in found.values()]).mean(0)
            sums["response"] = [self.responses(student, teacher, targets, mean)]
        return weighted_means(sums)

    def _make_responses(self, student: DetectorSpec, teacher: DetectorSpec) -> Responses | None:
        """Return the response term; None where it is not asked for, or the pair has none.

        Raises:
            DistildetError: The pair has none, and it is asked for or the only term.
        """
        if not self.options.has("response"):
            return None
        others = self.options.has("global") or self.options.has("feature")
        try:
            return Responses(student, teacher, self.options)
        except DistildetError as error:
            if self.options.terms is not None or not others:
                raise type(error)(
                    f"the term 'response' is asked for: {error} Or take 'response' out of `terms`, "
                    "where global and feature fit this pair."
                ) from error
            self.remarks_on_pair = (f"the term 'response' is left out: {error}",)
            return None

    def _banks(self) -> dict[str, PrototypeBank]:
        return {
            level: bank for level, bank in self.banks.items() if isinstance(bank, PrototypeBank)
        }

    def _compare_objects(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        batch: ImageBatch,
        targets: Sequence[Targets],
    ) -> dict[str, Agreement]:
        boxes = [target.boxes for target in targets]
        labels = torch.cat([target.labels for target in targets])
        return {
            level: bank.compare(
                object_features(student, level, batch, boxes),
                object_features(teacher, level, batch, boxes).detach(),
                labels,
            )
            for level, bank in self._banks().items()
        }


def _remarks_on_classes(names: Sequence[str], numbers: Sequence[int]) -> tuple[str, ...]:
    """Return a line about the classes without an object to choose from, if there are any."""
    missing = [name for name, number in zip(names, numbers, strict=True) if not number]
    if not missing:
        return ()
    return (
        f"there are no prototypes of {', '.join(missing)}: no box with sides above "
        f"{100 * LEAST_SIDE:g} % of the image's shorter side was found. The term 'global' leaves "
        "these classes out.",
    )


def _joined(observed: Sequence[Observation], channels: Mapping[str, int]) -> dict[str, Tensor]:
    """Return what was seen of all batches as one; without a batch, no instance."""
    nothing = {
        **{level: torch.zeros(0, number) for level, number in channels.items()},
        "labels": torch.zeros(0, dtype=torch.int64),
        "counts": torch.zeros(0, dtype=torch.bool),
    }
    return {
        name: torch.cat([none, *(one[name] for one in observed)]) for name, none in nothing.items()
    }

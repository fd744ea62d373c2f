"""The prototypes of one pyramid level: chosen instances of each class, in both feature spaces."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distildet.losses.global_knowledge.options import GlobalKnowledgeOptions
from distildet.ops.instance_density import dense_enough
from distildet.ops.prototype_clusters import cluster_centres
from distildet.ops.prototype_coordinates import (
    coordinates,
    projection_map,
    reliability_of_best,
    reliability_of_distance,
)
from distildet.ops.prototype_pursuit import pursue

FILTERED_FROM = 30
"""Instances of a class from which on those in sparse regions are no candidates."""
INSTANCES_FOR_A_PROTOTYPE = 3
NOTHING = -1


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far student and teacher place objects alike among the prototypes of a level.

    Args:
        difference: Sum of how far coordinates lie apart, with gradient.
        count: Of what this is a sum over: objects, or coordinates.
        reliability: [n] of each object, 0..1, without gradient.
    """

    difference: Tensor
    count: Tensor
    reliability: Tensor


@dataclass(frozen=True, kw_only=True)
class _Prototypes:
    """Of one class: [k c_t] and [k c_s] of norm 1, and the [k] instances that they are."""

    teacher: Tensor
    student: Tensor
    instances: Tensor


class PrototypeBank(nn.Module):
    """Buffers for the prototypes of every class, with room for K of each.

    Args:
        num_classes: Of the student.
        own_channels: Of the student's map.
        guide_channels: Of the teacher's map.
        options: How prototypes are chosen, and how many.
    """

    own_maps: Tensor
    guide_maps: Tensor
    chosen: Tensor

    def __init__(
        self,
        num_classes: int,
        own_channels: int,
        guide_channels: int,
        options: GlobalKnowledgeOptions,
    ) -> None:
        super().__init__()
        self.options = options
        # No more than this are ever chosen, see `_number`.
        room = num_classes, self._number(options.instances)
        # [classes K c], as `projection_map` returns them; zeros where there is no prototype.
        self.register_buffer("own_maps", torch.zeros(*room, own_channels))
        self.register_buffer("guide_maps", torch.zeros(*room, guide_channels))
        # [classes K], which observed instance is, or is nearest to, a prototype.
        self.register_buffer("chosen", torch.full(room, NOTHING))

    @property
    def is_filled(self) -> Tensor:
        """[classes K] bool, where there is a prototype."""
        return self.chosen != NOTHING

    @torch.no_grad()
    def fill(self, student: Tensor, teacher: Tensor, labels: Tensor, counts: Tensor) -> None:
        """Choose anew.

        Args:
            student: [n c_s], rows of norm 1, on the CPU.
            teacher: [n c_t], rows of norm 1.
            labels: [n] int64.
            counts: [n] bool, instances that may take part.
        """
        self.chosen.fill_(NOTHING)
        for maps in (self.own_maps, self.guide_maps):
            maps.zero_()
        for label in range(len(self.chosen)):
            places = ((labels == label) & counts).nonzero()[:, 0]
            if not len(places):
                continue
            found = self._choose(teacher[places], student[places])
            count = len(found.instances)
            self.chosen[label, :count] = places[found.instances]
            projection = self.options.own_projection
            for maps, prototypes in (
                (self.own_maps, found.student),
                (self.guide_maps, found.teacher),
            ):
                maps[label, :count] = projection_map(prototypes.double(), projection).float()

    def _number(self, instances: int) -> int:
        """Return how many prototypes a class of so many instances has."""
        return max(1, min(self.options.num_prototypes, instances // INSTANCES_FOR_A_PROTOTYPE))

    def compare(self, own: Tensor, guide: Tensor, labels: Tensor) -> Agreement:
        """Compare the coordinates of objects; see `GlobalKnowledge`.

        Args:
            own: [n c_s], the student's features, rows of norm 1.
            guide: [n c_t], the teacher's.
            labels: [n] int64.
        """
        if self.options.variant == "paper":
            return self._compare_coordinates(own, guide, labels)
        return self._compare_cosines(own, guide, labels)

    def _compare_coordinates(self, own: Tensor, guide: Tensor, labels: Tensor) -> Agreement:
        phi, guide_phi = (
            coordinates(one, maps, labels)
            for one, maps in ((own, self.own_maps), (guide, self.guide_maps))
        )  # [n, K]
        numbers = self.is_filled[labels].sum(1)  # [n], K_c
        apart = (phi - guide_phi).square().sum(1) / (2 * numbers.clamp(min=1))
        # Without prototypes all coordinates are 0, and the reliability is 1.
        reliability = reliability_of_distance(phi, guide_phi)
        return Agreement(
            difference=(reliability * apart).sum(),
            count=(numbers > 0).sum().to(apart.dtype),
            reliability=reliability,
        )

    def _compare_cosines(self, own: Tensor, guide: Tensor, labels: Tensor) -> Agreement:
        cosines, guide_cosines = (
            one @ maps.flatten(0, 1).T
            for one, maps in ((own, self.own_maps), (guide, self.guide_maps))
        )  # [n, classes * K]
        filled = self.is_filled  # [classes, K]
        classes = torch.arange(len(filled), device=labels.device)
        of_class = (labels[:, None] == classes)[:, :, None] & filled  # [n, classes, K]
        reliability = reliability_of_best(cosines, guide_cosines, of_class.flatten(1))
        # An object whose class has no prototypes takes no part. Prototypes that are not there are
        # zeros in both spaces, and so are their cosines.
        takes_part = of_class.flatten(1).any(1)  # [n]
        factor = (reliability * takes_part)[:, None]
        apart = F.smooth_l1_loss(factor * cosines, factor * guide_cosines, reduction="sum")
        return Agreement(
            difference=apart,
            count=(takes_part.sum() * filled.sum()).to(apart.dtype),
            reliability=reliability,
        )

    def _choose(self, teacher: Tensor, student: Tensor) -> _Prototypes:
        """Return the prototypes of the instances of one class."""
        count = len(teacher)
        number = self._number(count)
        if self.options.prototypes == "kmeans":
            clusters = cluster_centres(teacher, student, number, generator=_generator())
            return _Prototypes(
                teacher=clusters.teacher, student=clusters.student, instances=clusters.nearest
            )
        if self.options.prototypes == "random":
            instances = torch.randperm(count)[:number]
        else:
            candidates = None
            if count >= FILTERED_FROM:
                candidates = dense_enough(teacher, student, at_least=number)
            instances = pursue(
                teacher, student, number, agreement=self.options.agreement, candidates=candidates
            ).indices
        return _Prototypes(
            teacher=teacher[instances], student=student[instances], instances=instances
        )


def _generator() -> torch.Generator:
    """Return a generator that goes on from torch's own."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, ())))

"""The response term of global knowledge: class probabilities where the student matches objects."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distildet.errors import ConfigError
from distildet.losses.base import Needs, check_parts
from distildet.losses.comparable import (
    check_equal_heads,
    check_equal_priors,
    comparable_priors,
    comparable_regions,
)
from distildet.losses.compared_classes import common_labels, with_background, with_common_classes
from distildet.losses.global_knowledge.matched_response import (
    MatchedResponse,
    matched_priors,
    matched_regions,
)
from distildet.losses.global_knowledge.options import GlobalKnowledgeOptions
from distildet.losses.weighted_sum import WeightedSum
from distildet.ops.divergence import binary_kl, softmax_kl
from distildet.specs import DetectorSpec
from distildet.structures import DENSE, REGIONS, DetectorOutput, Targets

TEMPERATURE = 2.0
LOSS = "global-knowledge"
"""Name of the loss that this is a term of, in messages."""


class Responses(nn.Module):
    """Divergence of the student's class probabilities from the teacher's, of the same places.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.
        options: Variant and weight.

    Raises:
        MissingPartError: The two have not the same kind of head, or do not return what it predicts.
        ClassMapError: They have no class in common.
        ConfigError: Their priors differ, or one common class leaves nothing to compare.
    """

    own_labels: Tensor
    own_columns: Tensor
    guide_columns: Tensor

    def __init__(
        self, student: DetectorSpec, teacher: DetectorSpec, options: GlobalKnowledgeOptions
    ) -> None:
        super().__init__()
        check_equal_heads(student, teacher)
        own, guide = common_labels(student, teacher)
        self.options = options
        self.is_of_regions = student.head == "region"
        check_parts(self.needs, student, teacher)
        columns = own, guide
        if self.is_of_regions:
            columns = with_background(own), with_background(guide)
        else:
            check_equal_priors(student, teacher)
            if options.variant == "official" and len(own) == 1:
                raise ConfigError(
                    "with variant: official dense heads are compared by a softmax over the classes "
                    "that both know, and there is one. Accepted: variant: paper, or the terms "
                    "global and feature."
                )
        # Places in the logits; not in checkpoints, for the class lists say them.
        for name, numbers in (
            ("own_labels", own),
            ("own_columns", columns[0]),
            ("guide_columns", columns[1]),
        ):
            self.register_buffer(name, torch.tensor(numbers), persistent=False)

    @property
    def needs(self) -> Needs:
        """What it reads."""
        part = frozenset({REGIONS if self.is_of_regions else DENSE})
        return Needs(student=part, teacher=part, given=part if self.is_of_regions else frozenset())

    def forward(
        self,
        student: DetectorOutput,
        teacher: DetectorOutput,
        targets: Sequence[Targets],
        reliability: Tensor,
    ) -> WeightedSum:
        """Return the sum over places that stand for an object.

        Args:
            student: With the parts of `needs`.
            teacher: Likewise, of the same places.
            targets: One an image; their boxes are the objects, n in all.
            reliability: [n] of each object, 0..1.
        """
        places = self._places(student, teacher, targets)
        value = (self._divergence(places) * reliability[places.objects]).sum()
        return WeightedSum(
            value=value,
            count=value.new_tensor(float(len(places.objects))),
            factor=self.options.weight("response"),
        )

    def _places(
        self, student: DetectorOutput, teacher: DetectorOutput, targets: Sequence[Targets]
    ) -> MatchedResponse:
        if self.is_of_regions:
            return matched_regions(
                *comparable_regions(student.regions, teacher.regions, loss=LOSS),
                targets,
                self.own_labels,
            )
        return matched_priors(
            *comparable_priors(student.dense, teacher.dense, loss=LOSS), targets, self.own_labels
        )

    def _divergence(self, places: MatchedResponse) -> Tensor:
        """Return [m] of the classes that both know."""
        own, guide = places.student.float(), places.teacher.detach().float()
        if self.is_of_regions:
            own = with_common_classes(own, self.own_columns)
            guide = with_common_classes(guide, self.guide_columns)
        else:
            own = own.index_select(1, self.own_columns)
            guide = guide.index_select(1, self.guide_columns)
        if self.options.variant == "official":
            mean = softmax_kl(own / TEMPERATURE, guide / TEMPERATURE) / own.shape[1]
            return mean * TEMPERATURE**2
        return softmax_kl(own, guide) if self.is_of_regions else binary_kl(own, guide).sum(1)

"""Whether student and teacher can be compared place by place: priors of dense heads, or regions.

Of priors both must have the same; regions are the student's, which the teacher judges too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distildet.errors import ConfigError, MissingPartError
from distildet.specs import DetectorSpec
from distildet.structures import (
    FEATURES_NECK,
    DensePrediction,
    RegionPrediction,
)

# The options of a detector that say where and how large its priors are begin so.
_PRIOR_OPTIONS = "anchor_"


def check_equal_heads(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse a pair of which the one has a dense and the other a region head.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.

    Raises:
        MissingPartError: That is so.
    """
    if {student.head, teacher.head} == {"dense", "region"}:
        raise MissingPartError(
            f"the student {student.family!r} has a {student.head} head, the teacher "
            f"{teacher.family!r} a {teacher.head} head. Accepted: dense heads of the same family, "
            "or region heads, on both sides."
        )


def check_equal_priors(student: DetectorSpec, teacher: DetectorSpec) -> None:
    """Refuse a pair of which not every prior of the one is a prior of the other.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.

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


def comparable_priors(
    own: DensePrediction | None, guide: DensePrediction | None, *, loss: str
) -> tuple[DensePrediction, DensePrediction]:
    """Return the predictions of both after checking that they stand for the same priors.

    Args:
        own: Of the student.
        guide: Of the teacher.
        loss: Registered name, for messages.

    Raises:
        ValueError: A prediction is missing.
        ConfigError: They differ in levels or priors, or are no sigmoid logits.
    """
    if own is None or guide is None:
        raise ValueError(f"The loss {loss!r} needs the part 'dense' of student and teacher.")
    if own.activation != "sigmoid" or guide.activation != "sigmoid":
        raise ConfigError(
            f"loss {loss!r}: the activation of the student's logits is {own.activation}, of the "
            f"teacher's {guide.activation}. Accepted: sigmoid on both sides."
        )
    found, wanted = _prior_counts(own), _prior_counts(guide)
    if found != wanted:
        raise ConfigError(
            f"loss {loss!r}: the student has {found} priors on its levels, the teacher {wanted} "
            "on the same images. Both must have the same; take a student with the teacher's "
            "backbone levels and anchors."
        )
    return own, guide


def comparable_regions(
    own: RegionPrediction | None, guide: RegionPrediction | None, *, loss: str
) -> tuple[RegionPrediction, RegionPrediction]:
    """Return the predictions of both after checking that they are of the same regions.

    Args:
        own: Of the student.
        guide: Of the teacher, which was given the student's regions.
        loss: Registered name, for messages.

    Raises:
        ValueError: A prediction is missing, or the teacher judged other regions.
    """
    if own is None or guide is None:
        raise ValueError(f"The loss {loss!r} needs the part 'regions' of student and teacher.")
    if len(own.proposals) != len(guide.proposals) or not all(
        # As a rule they are the same tensors, which need not be read.
        one is other or torch.equal(one, other)
        for one, other in zip(own.proposals, guide.proposals, strict=True)
    ):
        raise ValueError(
            f"The loss {loss!r}: the teacher judged other regions than the student. Give it the "
            'student\'s: given={"regions": output.regions}.'
        )
    return own, guide


def _prior_counts(prediction: DensePrediction) -> list[int]:
    return [logits.shape[1] for logits in prediction.logits]


def _priors_of(spec: DetectorSpec) -> dict[str, Any]:
    """Return what the priors of a dense head depend on, by name, as it reads in a message."""
    levels = spec.levels_of(FEATURES_NECK).values()
    listed = ", ".join(f"{level.name} (stride {level.stride})" for level in levels)
    # Values, not texts: an anchor scale of 4 is one of 4.0.
    anchors = {n: value for n, value in spec.options.items() if n.startswith(_PRIOR_OPTIONS)}
    return {"family": spec.family, "levels": listed, **anchors}


def _listed(facts: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {facts.get(name, 'not given')}" for name in names)

"""The options of the loss `global-knowledge`, checked, with what a variant says of the others."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from distildet.errors import ConfigError, nearest_names
from distildet.ops.prototype_coordinates import Projection

Variant = Literal["paper", "official"]
KnowledgeTerm = Literal["global", "feature", "response"]
PrototypeChoice = Literal["pursuit", "kmeans", "random"]

_PROJECTIONS: dict[Variant, Projection] = {"paper": "pursuit", "official": "cosine"}
_WEIGHTS: dict[Variant, dict[str, float]] = {
    "paper": {"global": 1.0, "feature": 1.0, "background": 0.0, "response": 5.0},
    "official": {"global": 5.0, "feature": 1.0, "background": 4.0, "response": 1.0},
}
_TERMS_OF_WEIGHTS: dict[str, KnowledgeTerm] = {
    "global": "global",
    "feature": "feature",
    "background": "feature",
    "response": "response",
}


@dataclass(frozen=True, kw_only=True)
class GlobalKnowledgeOptions:
    """What `distildet.losses.global_knowledge.loss.GlobalKnowledge` is told; explained there.

    Raises:
        ConfigError: Options have no meaning; one line for each.
    """

    variant: Variant
    terms: tuple[KnowledgeTerm, ...] | None
    prototypes: PrototypeChoice
    num_prototypes: int
    agreement: float
    refresh: float
    instances: int
    projection: Projection | None
    global_weight: float | None
    feature_weight: float | None
    background_weight: float | None
    response_weight: float | None

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        faults = [
            f"{name}: found {word!r}. {nearest_names(word, get_args(accepted))}"
            for name, word, accepted in (
                ("variant", self.variant, Variant),
                ("prototypes", self.prototypes, PrototypeChoice),
                *(("terms", term, KnowledgeTerm) for term in self.terms or ()),
                *(
                    ()
                    if self.projection is None
                    else (("projection", self.projection, Projection),)
                ),
            )
            if word not in get_args(accepted)
        ]
        if self.terms is not None and (not self.terms or len(set(self.terms)) < len(self.terms)):
            faults.append(
                f"terms: found {list(self.terms)}. Accepted: different ones of "
                f"{', '.join(get_args(KnowledgeTerm))}, at least one."
            )
        weights = {f"{name}_weight": getattr(self, f"{name}_weight") for name in _WEIGHTS["paper"]}
        faults += [
            f"{name}: found {number}. Accepted: {accepted}."
            for name, number, accepted, is_right in (
                ("num_prototypes", self.num_prototypes, "1 or more", self.num_prototypes >= 1),
                ("instances", self.instances, "1 or more", self.instances >= 1),
                ("agreement", self.agreement, "a finite number above 0", self.agreement > 0),
                ("refresh", self.refresh, "a finite number above 0", self.refresh > 0),
                *(
                    (name, number, "a finite number of 0 or more", number >= 0)
                    for name, number in weights.items()
                    if number is not None
                ),
            )
            if not (is_right and math.isfinite(number))
        ]
        if self.variant == "official" and self.projection not in {None, "cosine"}:
            faults.append(
                f"projection: found {self.projection!r} with variant: official, which compares "
                "cosines. Accepted: cosine; or take variant: paper."
            )
        left_out = [
            name
            for name, term in _TERMS_OF_WEIGHTS.items()
            if self.terms is not None and term not in self.terms
        ]
        faults += [
            f"{name}_weight: found {weights[f'{name}_weight']}, and the term "
            f"{_TERMS_OF_WEIGHTS[name]!r} is not in `terms`. Leave it out."
            for name in left_out
            if weights[f"{name}_weight"] is not None
        ]
        if not faults and not any(self.has(term) for term in get_args(KnowledgeTerm)):
            asked = [f"{name}_weight" for name in _TERMS_OF_WEIGHTS if name not in left_out]
            faults.append(
                f"{', '.join(asked)}: found 0, which compares nothing. At least one must be above "
                "0."
            )
        if faults:
            raise ConfigError("\n".join(faults))

    @property
    def own_projection(self) -> Projection:
        """The kind of coordinates, of the variant where none is given."""
        return self.projection or _PROJECTIONS[self.variant]

    def has(self, term: KnowledgeTerm) -> bool:
        """Tell whether a term is asked for, and has a factor above 0."""
        factors = [self.weight(term)]
        if term == "feature":
            factors.append(self.weight("background"))
        return (self.terms is None or term in self.terms) and any(factors)

    def weight(self, name: Literal["global", "feature", "background", "response"]) -> float:
        """Return the factor of a term, of the variant where none is given."""
        given: float | None = getattr(self, f"{name}_weight")
        return _WEIGHTS[self.variant][name] if given is None else given

"""The options of the loss `adaptive`, checked."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from distildet.errors import ConfigError, nearest_names
from distildet.ops.adaptive_sums import AdaptiveForm

Form = Literal["paper", "official", "focal"]
PriorChoice = Literal["all", "positive"]
Normaliser = Literal["mass", "positives"]

_WORDS = {
    "form": get_args(Form),
    "priors": get_args(PriorChoice),
    "normaliser": get_args(Normaliser),
}
# Words that repeat the paper's comparisons on dense heads, and what to take in their place.
_OF_DENSE_HEADS = {
    "form": ("focal", "paper or official"),
    "priors": ("positive", "all"),
    "normaliser": ("positives", "mass"),
}
THETA = 1.8  # of the paper


@dataclass(frozen=True, kw_only=True)
class AdaptiveOptions:
    """What `distildet.losses.adaptive.Adaptive` is told; each field is explained there.

    Raises:
        ConfigError: Options have no meaning; one line for each.
    """

    form: Form
    beta: float
    gamma: float
    theta: float
    priors: PriorChoice
    normaliser: Normaliser

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        faults = [
            f"{name}: found {word!r}. {nearest_names(word, accepted)}"
            for name, accepted in _WORDS.items()
            if (word := getattr(self, name)) not in accepted
        ]
        faults += [
            f"{name}: found {number}. Accepted: a finite number of 0 or more."
            for name in ("beta", "gamma", "theta")
            if not (math.isfinite(number := getattr(self, name)) and number >= 0)
        ]
        if faults:
            raise ConfigError("\n".join(faults))

    @property
    def takes_positives_alone(self) -> bool:
        """Whether priors that are matched to no box are left out."""
        return self.priors == "positive"

    @property
    def counts_positives(self) -> bool:
        """Whether the number of positive priors is the normaliser."""
        return self.normaliser == "positives"

    @property
    def reads_positives(self) -> bool:
        """Whether it counts which priors are matched to a box."""
        return self.takes_positives_alone or self.counts_positives

    @property
    def own_form(self) -> AdaptiveForm | None:
        """The form, where it is one of the loss's own; None where it is that of a comparison."""
        return None if self.form == "focal" else self.form

    def form_of_regions(self) -> AdaptiveForm:
        """Return the form between region heads, which have none of what is for dense heads.

        Raises:
            ConfigError: One of these options is set.
        """
        if self.theta != THETA:
            raise ConfigError(
                f"theta: found {self.theta}, between region heads. It is of the normaliser of "
                "dense heads (RetinaNet, FCOS); of region heads that is the number of regions. "
                "Leave theta out."
            )
        found = {
            name: accepted
            for name, (word, accepted) in _OF_DENSE_HEADS.items()
            if getattr(self, name) == word
        }
        form = self.own_form
        if found or form is None:
            listed = ", ".join(f"{name}: found {getattr(self, name)!r}" for name in found)
            raise ConfigError(
                f"{listed}, between region heads. These options repeat the paper's comparisons, "
                "which are of the priors of dense heads (RetinaNet, FCOS). Accepted between region "
                f"heads: {', '.join(f'{name}: {word}' for name, word in found.items())}."
            )
        return form

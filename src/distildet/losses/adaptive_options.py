"""The options of the loss `adaptive`, checked."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from distildet.errors import ConfigError, nearest_names
from distildet.ops.adaptive_sums import AdaptiveForm
from distildet.ops.weighted_kl import KlWeighting

Weighting = Literal["adaptive", "focal", "hard", "none"]
PriorChoice = Literal["all", "positive"]
Normaliser = Literal["mass", "positives"]

_WORDS = {
    "form": get_args(AdaptiveForm),
    "weighting": get_args(Weighting),
    "priors": get_args(PriorChoice),
    "normaliser": get_args(Normaliser),
}
# What the options for comparisons on dense heads are without them.
_USUAL = {"weighting": "adaptive", "priors": "all", "normaliser": "mass"}


@dataclass(frozen=True, kw_only=True)
class AdaptiveOptions:
    """What `distildet.losses.adaptive.Adaptive` is told; each field is explained there.

    Raises:
        ConfigError: An option has no meaning, or none with another.
    """

    form: AdaptiveForm
    beta: float
    gamma: float
    theta: float
    weighting: Weighting
    priors: PriorChoice
    normaliser: Normaliser

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        for name, accepted in _WORDS.items():
            word = getattr(self, name)
            if word not in accepted:
                raise ConfigError(f"{name}: found {word!r}. {nearest_names(word, accepted)}")
        for name in ("beta", "gamma", "theta"):
            number = getattr(self, name)
            if not (math.isfinite(number) and number >= 0):
                raise ConfigError(
                    f"{name}: found {number}. Accepted: a finite number of 0 or more."
                )
        if self.form == "official" and self.weighting != "adaptive":
            raise ConfigError(
                f"form: found 'official' with weighting {self.weighting!r}. Accepted with it: "
                "paper, since the authors' program has one weighting alone; leave `form` or "
                "`weighting` out."
            )

    @property
    def comparison(self) -> KlWeighting | None:
        """The weighting that the loss is compared with; None with its own."""
        return None if self.weighting == "adaptive" else self.weighting

    @property
    def takes_positives_alone(self) -> bool:
        """Whether priors that are matched to no box are left out."""
        return self.priors == "positive"

    @property
    def counts_positives(self) -> bool:
        """Whether the number of positive priors is the normaliser."""
        return self.normaliser == "positives"

    @property
    def reads_boxes(self) -> bool:
        """Whether priors must have been matched to boxes."""
        return self.comparison == "focal" or self.takes_positives_alone or self.counts_positives

    def check_for_regions(self) -> None:
        """Refuse what compares losses of dense heads.

        Raises:
            ConfigError: One of these options is set.
        """
        found = {n: getattr(self, n) for n in _USUAL if getattr(self, n) != _USUAL[n]}
        if found:
            raise ConfigError(
                f"{', '.join(f'{name}: found {word!r}' for name, word in found.items())}, between "
                "region heads. These options repeat the paper's comparisons, which are of the "
                "priors of dense heads (RetinaNet, FCOS). Accepted between region heads: "
                f"{', '.join(f'{name}: {_USUAL[name]}' for name in found)}; leave them out. In "
                "place of weighting: hard take beta: 0, of none take gamma: 0."
            )

"""The options of the loss `hands-on-guidance`, checked."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from distildet.errors import ConfigError, nearest_names

Group = Literal["backbone", "neck", "head"]
Pairing = Literal["affinity", "order"]
Measure = Literal["hands-on", "squared"]
DEFAULT_GROUPS: tuple[Group, ...] = ("backbone", "neck")
"""Head towers cost accuracy: docs/methods/hands-on-guidance.md."""
LEAST_TEMPERATURE = 1e-3
"""Of macro weights: with less their bounds and their sum would not hold."""
Detail = Literal[
    "stride_penalty", "direction", "background", "attention", "hardness", "macro_temperature"
]

_DETAILS: dict[Detail, float] = {
    "stride_penalty": 0.5,
    "direction": 0.5,
    "background": 0.5,
    "attention": 2.0,
    "hardness": 1.0,
    "macro_temperature": 1.0,
}
_WEIGHTS: dict[Group, float] = {"backbone": 0.5, "neck": 1.0, "head": 1.0}


@dataclass(frozen=True, kw_only=True)
class HandsOnGuidanceOptions:
    """What `distildet.losses.hands_on_guidance.loss.HandsOnGuidance` is told; explained there.

    Raises:
        ConfigError: Options have no meaning; one line for each.
    """

    groups: tuple[Group, ...] | None
    correspondence: Pairing | Mapping[str, str]
    stride_penalty: float | None
    images: int
    measure: Measure
    direction: float | None
    release: float
    micro: bool
    background: float | None
    attention: float | None
    hardness: float | None
    macro: bool
    macro_temperature: float | None
    backbone_weight: float | None
    neck_weight: float | None
    head_weight: float | None

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        faults = [*self._wrong_words(), *self._wrong_numbers(), *self._without_effect()]
        if not faults and not any(self.weight(group) for group in self.asked):
            names = ", ".join(f"{group}_weight" for group in self.asked)
            faults.append(
                f"{names}: found 0, which compares nothing. At least one must be above 0."
            )
        if faults:
            raise ConfigError("\n".join(faults))

    @property
    def asked(self) -> tuple[Group, ...]:
        """The groups that shall be compared, where the pair has them."""
        if self.groups is not None:
            return self.groups
        return get_args(Group) if isinstance(self.correspondence, Mapping) else DEFAULT_GROUPS

    def weight(self, group: Group) -> float:
        """Return what each level of a group counts."""
        given: float | None = getattr(self, f"{group}_weight")
        return _WEIGHTS[group] if given is None else given

    def value(self, detail: Detail) -> float:
        """Return an option of a mechanism, its default where none is given."""
        given: float | None = getattr(self, detail)
        return _DETAILS[detail] if given is None else given

    def refuse_idle(self, compared: Collection[Group]) -> None:
        """Refuse what says something about groups and changes nothing.

        Args:
            compared: The groups of which levels of the pair learn.

        Raises:
            ConfigError: A weight of a group that is not compared, or of the only one, was given; or
                a group was asked for of which no level is paired by hand. One line for each.
        """
        faults = []
        for group in get_args(Group):
            given: float | None = getattr(self, f"{group}_weight")
            if not given:  # 0 leaves the group out, which is an effect
                continue
            if group not in compared:
                faults.append(
                    f"{group}_weight: found {given}, without effect: {group} is not compared, but "
                    f"{', '.join(compared)}. Leave it out, or add {group} to `groups`."
                )
            elif len(compared) == 1:
                faults.append(
                    f"{group}_weight: found {given}, without effect: {group} is the only group "
                    "that is compared, and such weights are relative. Leave it out."
                )
        faults += [
            f"groups: found {group}, of which no level is in `correspondence`. Take it out, or add "
            "one of its levels there."
            for group in self.groups or ()
            if isinstance(self.correspondence, Mapping)
            and group not in compared
            and self.weight(group) > 0
        ]
        if faults:
            raise ConfigError("\n".join(faults))

    def _without_effect(self) -> list[str]:
        """Return a line for each option of a mechanism that is switched off."""
        switched_off: list[tuple[str, tuple[Detail, ...]]] = []
        if self.measure == "squared":
            switched_off.append(("measure: squared", ("direction",)))
        if not self.micro:
            switched_off.append(("micro: false", ("background", "attention", "hardness")))
        if not self.macro:
            switched_off.append(("macro: false", ("macro_temperature",)))
        if self.correspondence != "affinity":
            word = self.correspondence if isinstance(self.correspondence, str) else "pairs by hand"
            switched_off.append((f"correspondence: {word}", ("stride_penalty",)))
        return [
            f"{name}: found {getattr(self, name)}, without effect with {switch}. Leave one out."
            for switch, names in switched_off
            for name in names
            if getattr(self, name) is not None
        ]

    def _wrong_words(self) -> list[str]:
        groups = self.groups
        faults = [
            f"{name}: found {word!r}. {nearest_names(word, get_args(accepted))}"
            for name, word, accepted in (
                ("measure", self.measure, Measure),
                *(("groups", group, Group) for group in groups or ()),
            )
            if word not in get_args(accepted)
        ]
        if groups is not None and (not groups or len(set(groups)) < len(groups)):
            faults.append(
                f"groups: found {list(groups)}. Accepted: different ones of "
                f"{', '.join(get_args(Group))}, at least one."
            )
        word = self.correspondence
        if isinstance(word, str) and word not in get_args(Pairing):
            faults.append(
                f"correspondence: found {word!r}. Accepted: {' or '.join(get_args(Pairing))}, or a "
                "level of the teacher for each level of the student that is to learn, such as "
                "{P3: P4}."
            )
        if isinstance(word, Mapping) and not word:
            faults.append(
                "correspondence: found no level. Accepted: a level of the teacher for each level "
                "of the student that is to learn, such as {P3: P4}."
            )
        return faults

    def _wrong_numbers(self) -> list[str]:
        at_least_0 = {
            "stride_penalty": self.value("stride_penalty"),
            "direction": self.value("direction"),
            "background": self.value("background"),
            "attention": self.value("attention"),
            "hardness": self.value("hardness"),
            **{f"{group}_weight": self.weight(group) for group in get_args(Group)},
        }
        temperature = self.value("macro_temperature")
        checks = (
            *(
                (name, number, "a finite number of 0 or more", number >= 0)
                for name, number in at_least_0.items()
            ),
            ("images", self.images, "1 or more", self.images >= 1),
            ("release", self.release, "a number from 0 to below 1", 0 <= self.release < 1),
            (
                "macro_temperature",
                temperature,
                f"a finite number of {LEAST_TEMPERATURE} or more",
                temperature >= LEAST_TEMPERATURE,
            ),
        )
        return [
            f"{name}: found {number}. Accepted: {accepted}."
            for name, number, accepted, is_right in checks
            if not (is_right and math.isfinite(number))
        ]

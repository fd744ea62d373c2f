"""Which feature levels of two detectors may be compared: those that play the same role."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from distildet.errors import MissingPartError
from distildet.losses.hands_on_guidance.options import Group
from distildet.losses.object_sizes import LevelSizes
from distildet.specs import DetectorSpec, FeatureLevel, ObjectSize
from distildet.structures import FEATURES_BACKBONE, FEATURES_HEAD, FEATURES_NECK

PARTS_BY_GROUP: dict[Group, str] = {
    "backbone": FEATURES_BACKBONE,
    "neck": FEATURES_NECK,
    "head": FEATURES_HEAD,
}


@dataclass(frozen=True, kw_only=True)
class LevelGroup:
    """Levels of both detectors that play one role, each side finest first.

    Args:
        group: The role. Of a head each tower has a group of its own.
        own: The student's.
        guide: The teacher's.
        measure: What of a box decides on which of the student's levels it is looked for.
    """

    group: Group
    own: tuple[FeatureLevel, ...]
    guide: tuple[FeatureLevel, ...]
    measure: ObjectSize

    @property
    def sizes(self) -> LevelSizes | None:
        """Of the objects that the student's levels look for; None where none looks for any."""
        if all(one.object_side is None for one in self.own):
            return None
        sides = (inf if one.object_side is None else one.object_side for one in self.own)
        return LevelSizes(self.measure, tuple(sides))


@dataclass(frozen=True, kw_only=True)
class StudentLevel:
    """A level of the student that learns.

    Args:
        level: Itself.
        group: Its place in the list of groups.
        place: Its place in the group, 0 for the finest.
        guide: Place of the teacher's level that it learns from to begin with, in the group.
    """

    level: FeatureLevel
    group: int
    place: int
    guide: int


def level_groups(
    student: DetectorSpec, teacher: DetectorSpec, asked: Sequence[Group]
) -> list[LevelGroup]:
    """Return the groups of levels that both detectors have.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.
        asked: Groups that may be returned.
    """
    groups = []
    for group in asked:
        part = PARTS_BY_GROUP[group]
        if part not in student.parts & teacher.parts:
            continue
        own, guide = _by_tower(student, part), _by_tower(teacher, part)
        groups += [
            LevelGroup(group=group, own=own[tower], guide=guide[tower], measure=student.object_size)
            for tower in own
            if tower in guide
        ]
    return groups


def missing_groups(
    student: DetectorSpec, teacher: DetectorSpec, asked: Sequence[Group]
) -> list[str]:
    """Return for each group that the pair does not have why it has none.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.
        asked: Groups to look for.
    """
    found = {group.group for group in level_groups(student, teacher, asked)}
    reasons = []
    for group in asked:
        if group in found:
            continue
        part = PARTS_BY_GROUP[group]
        without = [
            f"the {role} {spec.family!r}"
            for role, spec in (("student", student), ("teacher", teacher))
            if part not in spec.parts
        ]
        whose = f"{' and '.join(without)} without {part}" if without else "no tower on both sides"
        reasons.append(f"{group} is not compared: {whose}")
    return reasons


def learning_groups(groups: Sequence[LevelGroup], by_hand: Mapping[str, str]) -> list[LevelGroup]:
    """Return the groups of which a level is paired by hand.

    Args:
        groups: As `level_groups` returns them.
        by_hand: Level of the student -> level of the teacher.

    Raises:
        MissingPartError: A level is not there, or its pair is in another group; all at once.
    """
    faults = []
    for own, guide in by_hand.items():
        group = next((one for one in groups if own in _names(one.own)), None)
        if group is None:
            every = ", ".join(name for one in groups for name in _names(one.own))
            faults.append(
                f"found {own!r}, which is no level of the student that is compared. Accepted: "
                f"{every}."
            )
        elif guide not in _names(group.guide):
            accepted = ", ".join(_names(group.guide))
            faults.append(f"{own}: found {guide!r}. Accepted: {accepted}.")
    if faults:
        raise MissingPartError("\n".join(f"correspondence: {fault}" for fault in faults))
    return [group for group in groups if any(name in by_hand for name in _names(group.own))]


def student_levels(
    groups: Sequence[LevelGroup], by_hand: Mapping[str, str] | None
) -> list[StudentLevel]:
    """Return the levels of the student that learn, group after group.

    Args:
        groups: As `level_groups` returns them.
        by_hand: Level of the student -> level of the teacher; the others do not learn. None: all
            learn, the first from the first, those beyond the teacher's last from the last.
    """
    return [
        StudentLevel(
            level=level,
            group=number,
            place=place,
            guide=min(place, len(group.guide) - 1)
            if by_hand is None
            else _names(group.guide).index(by_hand[level.name]),
        )
        for number, group in enumerate(groups)
        for place, level in enumerate(group.own)
        if by_hand is None or level.name in by_hand
    ]


def _names(levels: Sequence[FeatureLevel]) -> list[str]:
    return [level.name for level in levels]


def _by_tower(spec: DetectorSpec, part: str) -> dict[str, tuple[FeatureLevel, ...]]:
    """Return the levels of a part by tower, such as "cls"; "" outside of heads."""
    towers: dict[str, list[FeatureLevel]] = {}
    for level in spec.levels_of(part).values():
        tower = level.name.partition(".")[0] if "." in level.name else ""
        towers.setdefault(tower, []).append(level)
    return {
        tower: tuple(sorted(levels, key=lambda level: level.stride))
        for tower, levels in towers.items()
    }

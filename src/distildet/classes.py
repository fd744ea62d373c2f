"""Class lists, and the mapping of one to another by name."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from distildet.class_aliases import SYNONYMS
from distildet.errors import ClassMapError, nearest_names, similar_names

DROP: Final = "drop"
"""Written in a recipe in the place of a class name: the teacher's class has no counterpart."""
MatchedBy: TypeAlias = Literal["name", "spelling", "alias", "class_map"]
"""Why two classes belong together: equal names; equal but for case, spaces and punctuation; names
that `class_aliases` has for the same; or because the recipe says so."""


@dataclass(frozen=True)
class ClassList:
    """Ordered class names; a label is an index into it, 0-based, without background.

    Args:
        names: The names, unique and not empty.

    Raises:
        ClassMapError: A name occurs twice or is empty, or there is none.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse lists whose labels could be confused."""
        if not self.names:
            raise ClassMapError("The class list is empty. At least one class name is needed.")
        for name, count in Counter(self.names).items():
            if not name.strip():
                raise ClassMapError(f"Class name {name!r} is empty. Give every class a name.")
            if count > 1:
                raise ClassMapError(
                    f"Class name {name!r} occurs {count} times in one class list. "
                    "Names must be unique, since classes are matched by name."
                )

    def __len__(self) -> int:
        """Return the number of classes."""
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        """Go through the names in the order of the labels."""
        return iter(self.names)

    def __getitem__(self, label: int) -> str:
        """Return the name of a label."""
        return self.names[label]

    def label(self, name: str) -> int:
        """Return the label of a class name.

        Raises:
            ClassMapError: There is no such class; the message has the nearest name.
        """
        if name not in self.names:
            raise ClassMapError(f"Unknown class {name!r}. {nearest_names(name, self.names)}")
        return self.names.index(name)


@dataclass(frozen=True, kw_only=True)
class ClassMap:
    """For each class of a source, such as a teacher, the class of a target that it stands for.

    Args:
        source: Class list of what is mapped.
        target: Class list that it is mapped to.
        labels: For each label of the source that of the target, or None where it has none.
        matched_by: For each label of the source how its class was found, or None where it has none.
    """

    source: ClassList
    target: ClassList
    labels: tuple[int | None, ...]
    matched_by: tuple[MatchedBy | None, ...]

    @property
    def known(self) -> tuple[bool, ...]:
        """For each label of the target whether some class of the source stands for it."""
        return tuple(label in self.labels for label in range(len(self.target)))

    def named_as_target(self) -> ClassList:
        """Return the classes of the source under the names of the target's that they stand for.

        A class that stands for none, or is one of several for the same, gets a name that is no
        class's.
        """
        taken = Counter(self.labels)
        return ClassList(
            tuple(
                f"{name} (no class)"
                if label is None
                else f"{name} (a part of {self.target[label]})"
                if taken[label] > 1
                else self.target[label]
                for name, label in zip(self.source, self.labels, strict=True)
            )
        )

    def table(self) -> list[str]:
        """Return one line for each class of the target, and one for the classes left out.

        What was matched by anything but its name has this behind it, as in "sofa  <-  couch
        (alias)".
        """
        width = max(len(name) for name in self.target)
        lines = [
            f"{name:<{width}}  <-  {', '.join(self.sources_of(label)) or '(nothing)'}"
            for label, name in enumerate(self.target)
        ]
        if self.left_out():
            lines.append(f"left out: {', '.join(self.left_out())}")
        return lines

    def left_out(self) -> list[str]:
        """Return the classes of the source that stand for none of the target."""
        return [n for n, mapped in zip(self.source, self.labels, strict=True) if mapped is None]

    def sources_of(self, label: int) -> list[str]:
        """Return the classes that stand for one of the target, and how they were found."""
        return [
            name if how == "name" else f"{name} ({how})"
            for name, mapped, how in zip(self.source, self.labels, self.matched_by, strict=True)
            if mapped == label
        ]


def map_classes(
    source: ClassList,
    target: ClassList,
    *,
    given: Mapping[str, str] | None = None,
    unknown: Sequence[str] = (),
    elsewhere: Collection[str] = (),
) -> ClassMap:
    """Map the classes of a teacher to those of a student by name.

    Names belong together as `map_names` says. A class without a counterpart is no error on the
    teacher's side, where it is left out, but it is one on the student's: a class without a teacher
    would silently get no boxes.

    Args:
        source: Classes of the teacher.
        target: Classes of the student.
        given: Teacher's class -> student's class, or `DROP`; goes before equal names. Several may
            stand for one. The student's may differ in case, spaces and punctuation.
        unknown: Student's classes that the teacher is known not to have.
        elsewhere: Student's classes that another teacher has, so that this one may lack them.

    Raises:
        ClassMapError: A student's class has no counterpart and is in neither `unknown` nor
            `elsewhere`, the teacher has none of them, or a given name does not exist; all faults
            are listed, with the nearest names.
    """
    given = _as_spelled(given or {}, target)
    faults = _given_faults(source, target, given, unknown)
    mapping = map_names(source, target, given)
    for label, (name, is_known) in enumerate(zip(target, mapping.known, strict=True)):
        if not is_known and name in elsewhere:
            continue
        if is_known and name in unknown:
            faults.append(
                f"unknown_classes has {name!r}, but the teacher has this class: "
                f"{', '.join(mapping.sources_of(label))}. Take it out there, or map the teacher's "
                f"class to {DROP} in class_map."
            )
        elif not is_known and name not in unknown and name not in given:
            free = [n for n in mapping.left_out() if n not in given]
            faults.append(
                f"the teacher has no class {name!r}. {_likely_names(name, free)} Name its "
                f"counterpart in class_map, as in {{{(free or ['ITS CLASS'])[0]}: {name}}}, or "
                f"list {name!r} in unknown_classes."
            )
        elif not is_known and name not in unknown and given[name] in {*target, DROP}:
            faults.append(
                f"class_map takes the teacher's class {name!r} away from the student's. Take it "
                f"out there, or list {name!r} in unknown_classes."
            )
    if not faults and not any(mapping.known):
        faults.append(
            f"the teacher has none of the student's classes {', '.join(target)}; its own are "
            f"{', '.join(source)}. Name counterparts in class_map, or leave this teacher out."
        )
    if faults:
        raise ClassMapError("\n".join(faults))
    return mapping


def map_names(
    source: ClassList, target: ClassList, given: Mapping[str, str] | None = None
) -> ClassMap:
    """Map the classes of one list to those of another, as far as their names say.

    What is given goes first, then equal names, then names that differ in case, spaces and
    punctuation alone, then names that `distildet.class_aliases` has for the same. The last two hold
    only where one class of the source and one of the target could be meant; an alias never for a
    class that something is given for.

    Args:
        source: For example the classes of validation images.
        target: For example the classes of the labeled images.
        given: Name of the source -> name of the target, or any other word for none.
    """
    given = _as_spelled(given or {}, target)
    undecided = [name for name in source if name not in given]
    by_spelling = _shared(source, target, _bare)
    by_alias = _shared(undecided, target, _meaning, taken=given.values())
    found = [_found(name, target, given, by_spelling, by_alias) for name in source]
    return ClassMap(
        source=source,
        target=target,
        labels=tuple(label for label, _ in found),
        matched_by=tuple(how for _, how in found),
    )


def join_classes(lists: Sequence[tuple[ClassList, Mapping[str, str]]]) -> ClassList:
    """Return the classes of several teachers as one list, each class once.

    Args:
        lists: For each teacher its classes, and its class -> class of the joint list, or `DROP`.

    Returns:
        Those of the first, then of each other what has no counterpart by name before it.
    """
    joined: list[str] = []
    for classes, given in lists:
        before = map_labels(classes, ClassList(tuple(joined)), given) if joined else ()
        for place, name in enumerate(classes):
            wanted = _as_spelled(given, joined).get(name, name)
            is_new = wanted != DROP and wanted not in joined
            if is_new and (name in given or not before or before[place] is None):
                joined.append(wanted)
    return ClassList(tuple(joined))


def map_labels(
    source: ClassList, target: ClassList, given: Mapping[str, str] | None = None
) -> tuple[int | None, ...]:
    """Return for each label of one class list that of another, or None, as `map_names` does.

    Args:
        source: For example the classes of validation images.
        target: For example the classes of the labeled images.
        given: Name of the source -> name of the target; goes before equal names.
    """
    return map_names(source, target, given).labels


def _as_spelled(given: Mapping[str, str], target: Iterable[str]) -> Mapping[str, str]:
    """Return what is given with the names as the target spells them, where one alone is meant."""
    by_bare: dict[str, list[str]] = {}
    for name in target:
        by_bare.setdefault(_bare(name), []).append(name)
    meant = {bare: names[0] for bare, names in by_bare.items() if len(names) == 1}
    return {
        name: wanted if wanted == DROP else meant.get(_bare(wanted), wanted)
        for name, wanted in given.items()
    }


def _given_faults(
    source: ClassList, target: ClassList, given: Mapping[str, str], unknown: Sequence[str]
) -> list[str]:
    faults = [
        f"class_map has {name!r}, which is no class of the teacher. {similar_names(name, source)}"
        for name in given
        if name not in source.names
    ]
    faults += [
        f"class_map maps {name!r} to {wanted!r}, which is no class of the student. "
        f"{nearest_names(wanted, [*target, DROP])}"
        for name, wanted in given.items()
        if wanted != DROP and wanted not in target.names
    ]
    faults += [
        f"unknown_classes has {name!r}, which is no class of the student. "
        f"{nearest_names(name, target)}"
        for name in unknown
        if name not in target.names
    ]
    return faults


def _likely_names(name: str, free: Sequence[str]) -> str:
    """Return a sentence with the names that may mean the same: those of an alias, or similar."""
    meaning = _meaning(name)
    meant = [other for other in free if meaning is not None and _meaning(other) == meaning]
    if meant:
        return f"It may be meant by {' or '.join(map(repr, meant))}."
    return similar_names(name, free)


def _shared(
    source: Sequence[str] | ClassList,
    target: ClassList,
    key: Callable[[str], str | None],
    *,
    taken: Collection[str] = (),
) -> dict[str, int]:
    """Return key -> label of the target, of keys that one name has on each side.

    Args:
        source: Names.
        target: Names, those of the labels.
        key: Of a name, or None where it has none.
        taken: Names of the target that are left out.
    """
    sources, targets = Counter(map(key, source)), Counter(map(key, target))
    return {
        shared: label
        for label, name in enumerate(target)
        if (shared := key(name)) is not None
        and sources[shared] == targets[shared] == 1
        and name not in taken
    }


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


_GROUP_OF: Final = {_bare(name): group[0] for group in SYNONYMS for name in group}


def _meaning(name: str) -> str | None:
    """Return what all names for the same class have in common; None where there is one name."""
    return _GROUP_OF.get(_bare(name))


def _found(
    name: str,
    target: ClassList,
    given: Mapping[str, str],
    by_spelling: Mapping[str, int],
    by_alias: Mapping[str, int],
) -> tuple[int, MatchedBy] | tuple[None, None]:
    """Return the label that a name of the source stands for, and how it was found."""
    wanted = given.get(name, name)
    if wanted in target.names:
        return target.label(wanted), "class_map" if name in given else "name"
    if name in given:
        return None, None
    if _bare(name) in by_spelling:
        return by_spelling[_bare(name)], "spelling"
    meaning = _meaning(name)
    if meaning is not None and meaning in by_alias:
        return by_alias[meaning], "alias"
    return None, None

"""Class lists, and the mapping of one to another by name."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from distildet.errors import ClassMapError, nearest_names, similar_names

DROP: Final = "drop"
"""Written in a recipe in the place of a class name: the teacher's class has no counterpart."""


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
    """

    source: ClassList
    target: ClassList
    labels: tuple[int | None, ...]

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
        """Return one line for each class of the target, and one for the classes left out."""
        width = max(len(name) for name in self.target)
        lines = []
        for label, name in enumerate(self.target):
            names = [
                source
                for source, mapped in zip(self.source, self.labels, strict=True)
                if mapped == label
            ]
            lines.append(f"{name:<{width}}  <-  {', '.join(names) or '(nothing)'}")
        left_out = [n for n, mapped in zip(self.source, self.labels, strict=True) if mapped is None]
        if left_out:
            lines.append(f"left out: {', '.join(left_out)}")
        return lines


def map_classes(
    source: ClassList,
    target: ClassList,
    *,
    given: Mapping[str, str] | None = None,
    unknown: Sequence[str] = (),
    elsewhere: Collection[str] = (),
) -> ClassMap:
    """Map the classes of a teacher to those of a student by name.

    Equal names belong together, then names that differ in case, spaces and punctuation alone.
    What nothing is said about is no error on the teacher's side, where a class without a
    counterpart is left out, but it is one on the student's: a class without a teacher would
    silently get no boxes.

    Args:
        source: Classes of the teacher.
        target: Classes of the student.
        given: Teacher's class -> student's class, or `DROP`; goes before equal names. Several may
            stand for one.
        unknown: Student's classes that the teacher is known not to have.
        elsewhere: Student's classes that another teacher has, so that this one may lack them.

    Raises:
        ClassMapError: A student's class has no counterpart and is in neither `unknown` nor
            `elsewhere`, the teacher has none of them, or a given name does not exist; all faults
            are listed, with the nearest names.
    """
    given = given or {}
    faults = _given_faults(source, target, given, unknown)
    labels = map_labels(source, target, given)
    mapping = ClassMap(source=source, target=target, labels=labels)
    for name, is_known in zip(target, mapping.known, strict=True):
        if not is_known and name in elsewhere:
            continue
        if is_known and name in unknown:
            faults.append(
                f"unknown_classes has {name!r}, but the teacher has this class. Take it out there."
            )
        elif not is_known and name not in unknown and name not in given:
            free = [n for n, label in zip(source, labels, strict=True) if label is None]
            faults.append(
                f"the teacher has no class {name!r}. {similar_names(name, free)} Name its "
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
            wanted = given.get(name, name)
            is_new = wanted != DROP and wanted not in joined
            if is_new and (name in given or not before or before[place] is None):
                joined.append(wanted)
    return ClassList(tuple(joined))


def map_labels(
    source: ClassList, target: ClassList, given: Mapping[str, str] | None = None
) -> tuple[int | None, ...]:
    """Map the labels of one class list to those of another by name.

    Args:
        source: For example the classes of validation images.
        target: For example the classes of the labeled images.
        given: Name of the source -> name of the target; goes before equal names.

    Returns:
        For each label of `source` the label of the class of the same name, or of the one class
        whose name differs in case, spaces and punctuation alone; None where there is none.
    """
    given = given or {}
    by_spelling = _by_spelling(source, target)
    return tuple(_target_label(name, target, by_spelling, given) for name in source)


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


def _by_spelling(source: ClassList, target: ClassList) -> dict[str, int]:
    """Return bare spelling -> label, of classes that have it alone on both sides."""
    targets = Counter(_bare(name) for name in target)
    sources = Counter(_bare(name) for name in source)
    return {
        _bare(name): label
        for label, name in enumerate(target)
        if targets[_bare(name)] == 1 and sources[_bare(name)] == 1
    }


def _bare(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _target_label(
    name: str, target: ClassList, by_spelling: Mapping[str, int], given: Mapping[str, str]
) -> int | None:
    if name in given:
        return target.names.index(given[name]) if given[name] in target.names else None
    if name in target.names:
        return target.names.index(name)
    return by_spelling.get(_bare(name))

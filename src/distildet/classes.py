"""Class lists: the ordered names that labels index."""

from collections.abc import Iterator
from dataclasses import dataclass

from distildet.errors import ClassMapError, nearest_names


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
        for name in self.names:
            if not name.strip():
                raise ClassMapError(f"Class name {name!r} is empty. Give every class a name.")
            if self.names.count(name) > 1:
                raise ClassMapError(
                    f"Class name {name!r} occurs {self.names.count(name)} times in one class list. "
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


def map_labels(source: ClassList, target: ClassList) -> tuple[int | None, ...]:
    """Map the labels of one class list to those of another by equal names.

    Args:
        source: For example the classes of a teacher.
        target: For example the classes of the labeled images.

    Returns:
        For each label of `source` the label of `target`, or None where the name is not in it.

    Raises:
        ClassMapError: No name is common to both.
    """
    mapping = tuple(
        target.names.index(name) if name in target.names else None for name in source.names
    )
    if all(label is None for label in mapping):
        raise ClassMapError(
            f"No class name is common to {', '.join(source)} and {', '.join(target)}. "
            "Classes are matched by name: rename them so that they agree."
        )
    return mapping


def unmatched_names(teacher: ClassList, student: ClassList) -> list[str]:
    """Return one line for each class that only one of the two lists has.

    Args:
        teacher: Classes that the teacher can detect.
        student: Classes that the student learns.
    """
    lines = [
        f"The teacher does not know the class {name!r}: it gets no pseudo labels. "
        f"{nearest_names(name, teacher)}"
        for name in student
        if name not in teacher.names
    ]
    lines += [
        f"The teacher's class {name!r} is not one to learn: its boxes are dropped. "
        f"{nearest_names(name, student)}"
        for name in teacher
        if name not in student.names
    ]
    return lines

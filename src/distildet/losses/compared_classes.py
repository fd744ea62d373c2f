"""The classes in which student and teacher are compared: those that both know."""

from collections.abc import Sequence

import torch
from torch import Tensor

from distildet.classes import map_labels
from distildet.errors import ClassMapError
from distildet.specs import DetectorSpec


def common_labels(student: DetectorSpec, teacher: DetectorSpec) -> tuple[list[int], list[int]]:
    """Return the labels of the student and of the teacher that mean the same class, in pairs.

    Args:
        student: Facts of the student.
        teacher: Facts of the teacher.

    Raises:
        ClassMapError: There is none.
    """
    labels = map_labels(teacher.classes, student.classes)
    pairs = [(own, guide) for guide, own in enumerate(labels) if own is not None]
    if not pairs:
        raise ClassMapError(
            "student and teacher have no class of the same name. The student has "
            f"{', '.join(student.classes)}; the teacher has {', '.join(teacher.classes)}. At least "
            "one class must be common: name it in the teacher's class_map."
        )
    return [own for own, _ in pairs], [guide for _, guide in pairs]


def are_all(labels: Sequence[int], spec: DetectorSpec) -> bool:
    """Say whether these labels are all of a detector, in their order.

    Args:
        labels: Of classes.
        spec: Facts of the detector.
    """
    return list(labels) == list(range(len(spec.classes)))


def with_background(labels: Sequence[int]) -> list[int]:
    """Return the columns of a region head that stand for background and these labels.

    Args:
        labels: Of classes.
    """
    return [0, *(1 + label for label in labels)]


def with_common_classes(logits: Tensor, columns: Tensor) -> Tensor:
    """Return logits [m c] of a softmax in which all columns but some are one, the background.

    To a detector that does not know a class, its objects are background. To leave the column out
    would teach of a truck what the teacher says of it if it is no truck: that it is a car.

    Args:
        logits: [m 1+k], background first.
        columns: [c], background first, then those of the classes that both know.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rest = torch.ones(logits.shape[1], dtype=torch.bool, device=logits.device)
    rest[columns[1:]] = False
    background = logits[:, rest].logsumexp(1, keepdim=True)  # [m 1]
    return torch.cat([background, logits.index_select(1, columns[1:])], dim=1)

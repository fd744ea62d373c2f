"""Who labels the images of a label stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor

from distildet.classes import DROP, ClassList
from distildet.recipes.run_context import RunContext, Teacher
from distildet.recipes.run_folder import STUDENT
from distildet.recipes.schema import LabelStage
from distildet.recipes.streams import LABELED_BY


@dataclass(frozen=True, kw_only=True)
class Labeler:
    """One of those that label.

    Args:
        name: In messages, such as "teachers[0]".
        key: Name of its folder, such as "0".
        teacher: The detector.
        trust: Its say beside the others', > 0.
    """

    name: str
    key: str
    teacher: Teacher
    trust: float = 1.0

    def known(self, classes: ClassList) -> Tensor:
        """Return which classes it knows, [k] bool."""
        return torch.tensor(self.teacher.map_to(classes).known)


def labelers_of(teachers: Sequence[Teacher], trusts: Sequence[float]) -> list[Labeler]:
    """Return teachers as those who label, in their order."""
    return [
        Labeler(name=f"teachers[{place}]", key=str(place), teacher=teacher, trust=trust)
        for place, (teacher, trust) in enumerate(zip(teachers, trusts, strict=True))
    ]


def stage_labelers(
    context: RunContext, stage: LabelStage, previous: Path | None
) -> tuple[Labeler, ...]:
    """Return who labels in a stage: teachers, the student so far, or both.

    Args:
        context: Of the run.
        stage: Of the recipe.
        previous: Folder of the train stage before, if any.
    """
    trusts = [config.trust for config in context.recipe.teachers]
    who = labelers_of(context.teachers, trusts) if stage.by != "student" else []
    if stage.by != "teachers" and previous is not None:
        known = taught_classes(context, stage).tolist()
        unknown = [
            name for name, is_known in zip(context.classes, known, strict=True) if not is_known
        ]
        student = Teacher(
            previous / STUDENT,
            class_map=dict.fromkeys(unknown, DROP),
            unknown_classes=unknown,
        )
        who.append(Labeler(name=STUDENT, key=STUDENT, teacher=student))
    return tuple(who)


def known_classes(context: RunContext, stage: LabelStage) -> Tensor:
    """Return which of the student's classes somebody looked for in a stage, [k] bool.

    Teachers look for what they know, the student for what `taught_classes` says.
    """
    known = torch.zeros(len(context.classes), dtype=torch.bool)
    if stage.by != "student":
        for teacher in context.teachers:
            known |= torch.tensor(teacher.map_to(context.classes).known)
    if stage.by != "teachers":
        known |= taught_classes(context, stage)
    return known


def taught_classes(context: RunContext, stage: LabelStage) -> Tensor:
    """Return which classes the student has learned when it comes to a label stage, [k] bool.

    Human labels teach all classes, pseudo-labels those that somebody looked for. New weights have
    learned nothing, or all where they are given by a path.

    Args:
        context: Of the run.
        stage: Of the recipe itself, no copy.
    """
    taught = torch.zeros(len(context.classes), dtype=torch.bool)
    labels: list[LabelStage] = []
    for before in takewhile(lambda other: other is not stage, context.recipe.stages):
        if isinstance(before, LabelStage):
            labels.append(before)
            continue
        if before.init != "previous":
            taught = torch.full_like(taught, isinstance(before.init, Path))
        for stream, kind in before.targets.items():
            if kind == "human":
                taught = torch.ones_like(taught)
            else:
                last = [one for one in labels if one.images in LABELED_BY[stream]][-1]
                taught = taught | known_classes(context, last)
    return taught

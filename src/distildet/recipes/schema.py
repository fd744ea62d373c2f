"""The recipe as typed data: what each key means, its default and its range.

Every field has a description, since the reference pages of the documentation are made from them.
"""

import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import Field, field_validator

from distildet.recipes.source_schema import (
    LABELED_REST,
    AnnotatedSourceConfig,
    DataConfig,
    LabeledSourceConfig,
    SourceConfig,
    StudentConfig,
    TeacherConfig,
)
from distildet.recipes.stage_schema import (
    AugmentationConfig,
    LabelStage,
    OptimizerConfig,
    ScheduleConfig,
    Stage,
    TrainStage,
)
from distildet.recipes.teacher_schema import TeacherEntry
from distildet.recipes.values import (
    Boolean,
    Integer,
    NonePossible,
    NotEmpty,
    Section,
    complete_fault,
)

__all__ = [
    "LABELED_REST",
    "AnnotatedSourceConfig",
    "AugmentationConfig",
    "DataConfig",
    "LabelStage",
    "LabeledSourceConfig",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "SourceConfig",
    "Stage",
    "StudentConfig",
    "TeacherConfig",
    "TeacherEntry",
    "TrainStage",
    "without_teachers",
]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Seed = Annotated[Integer, Field(ge=0, le=2**32 - 1)]


class Recipe(Section):
    """What a run does."""

    name: str = Field(description="Name of the run folder: letters, digits and . _ -")
    seeds: Annotated[tuple[Seed, ...], NotEmpty] = Field(
        default=(0,), description="One run for each seed."
    )
    preset: Annotated[str | None, NonePossible] = Field(
        default=None, description="Name of a shipped recipe that fills in what is not given."
    )
    data: DataConfig = Field(description="The images.")
    teachers: tuple[TeacherEntry, ...] = Field(
        default=(), description="Detectors that guide the student; without any, plain training."
    )
    student: StudentConfig = Field(description="The detector that learns.")
    stages: Annotated[tuple[Stage, ...], NotEmpty] = Field(description="What is done, in order.")
    baseline: Boolean = Field(
        default_factory=lambda sections: bool(
            sections.get("teachers") and "data" in sections and sections["data"].labeled
        ),
        description="Train the same student on the labels alone, to compare with; by default where "
        "there are teachers and labeled images.",
    )

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
            raise complete_fault(
                f"found {value!r}. Accepted: up to 100 letters, digits and . _ - "
                "that begin with a letter or digit."
            )
        return value

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        repeated = sorted({seed for seed in value if value.count(seed) > 1})
        if repeated:
            raise complete_fault(f"found {repeated[0]} more than once. Every seed is run once.")
        return value

    @field_validator("stages")
    @classmethod
    def _first_training_starts_pretrained(
        cls, value: tuple[LabelStage | TrainStage, ...]
    ) -> tuple[LabelStage | TrainStage, ...]:
        first = next((i for i, stage in enumerate(value) if isinstance(stage, TrainStage)), None)
        if first is None or "init" in value[first].model_fields_set:
            return value
        resolved = value[first].model_copy(update={"init": "pretrained"})
        return (*value[:first], resolved, *value[first + 1 :])


def without_teachers(stages: Iterable[LabelStage | TrainStage]) -> tuple[TrainStage, ...]:
    """Return the stages of the baseline: the same training on human targets, no distillation.

    Args:
        stages: The stages of the student. Label stages are left out; a train stage keeps batch
            size, length and schedule, and draws all its images from the labeled stream. Where the
            length is in epochs, count the steps with the student's stage: the streams differ.
    """
    update = {
        "images": {"labeled": 1.0},
        "targets": {"labeled": "human"},
        "distill": (),
        "teacher_cache": None,
    }
    return tuple(
        stage.model_copy(update=update) for stage in stages if isinstance(stage, TrainStage)
    )

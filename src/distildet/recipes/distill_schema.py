"""The entries of `distill` in a train stage: a loss, its weight, its course and its options."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from distildet.recipes.values import (
    Integer,
    NonePossible,
    NotEmpty,
    Number,
    Section,
    Share,
    complete_fault,
)


def _kind_of_weight(value: Any) -> str | None:
    if value == "auto":
        return "auto"
    try:
        float(value)
    except (TypeError, ValueError):
        return None
    return "number"


Weight = Annotated[
    Annotated[Literal["auto"], Tag("auto")]
    | Annotated[Annotated[Number, Field(ge=0)], Tag("number")],
    Discriminator(
        _kind_of_weight,
        custom_error_type="weight",
        custom_error_message="auto, or a number of at least 0",
    ),
]


class TermScheduleConfig(Section):
    """Course of a distillation loss over its stage."""

    start: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.0, description="Share of the stage after which the loss begins, 0 <= start < 1."
    )
    stop: Share = Field(default=1.0, description="Share of the stage at which the loss ends.")
    decay: Literal["none", "linear", "cosine"] = Field(
        default="none",
        description="Course of its factor: none (1 from start to stop), or from 1 at start to 0 at "
        "stop, linear or as a cosine.",
    )

    @field_validator("stop")
    @classmethod
    def _comes_after_the_start(cls, value: float, info: ValidationInfo) -> float:
        start = info.data.get("start", 0.0)
        if value <= start:
            raise complete_fault(f"found {value}. Accepted: above start {start}, up to 1.")
        return value


class DistillConfig(BaseModel):
    """One distillation loss of a train stage; all further keys are options of the loss."""

    model_config = ConfigDict(extra="allow", frozen=True, validate_default=True)

    loss: Annotated[str, NotEmpty] = Field(
        description="Name of the loss, such as feature-imitation; `distildet list` shows all."
    )
    weight: Weight = Field(
        default=1.0,
        description="Factor of the loss, or auto: found in the first steps, so that the loss is "
        "`share` times the detector's own, then kept; 0 = the loss is left out.",
    )
    share: Annotated[Annotated[Number, Field(gt=0)] | None, NonePossible] = Field(
        default=None,
        description="With weight: auto, the size of the weighted loss as a multiple of the "
        "detector's own loss; 1 unless something else is given.",
    )
    schedule: TermScheduleConfig = Field(
        default=TermScheduleConfig(), description="Course of the loss over the stage."
    )
    teacher: Annotated[Annotated[Integer, Field(ge=0)] | None, NonePossible] = Field(
        default=None,
        description="Place in `teachers`, from 0, of the teacher to learn from; needed where there "
        "are several, and the same in all losses of a stage.",
    )

    @field_validator("share")
    @classmethod
    def _belongs_to_auto(cls, value: float | None, info: ValidationInfo) -> float | None:
        if "weight" not in info.data:
            return value
        weight = info.data["weight"]
        if weight == "auto":
            return 1.0 if value is None else value
        if value is not None:
            raise complete_fault(
                f"found {value}, but weight is {weight}. A share is accepted with weight: auto "
                "alone; remove one of them."
            )
        return None

    @property
    def options(self) -> dict[str, Any]:
        """Options of the loss as the recipe has them: texts, lists and mappings."""
        return dict(self.model_extra or {})

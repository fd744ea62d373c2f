"""The option of a train stage to store what the teacher says."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from distildet.recipes.values import Integer, Section, read_none


class TeacherCacheConfig(Section):
    """How a train stage stores what the teacher says."""

    views: Annotated[Integer, Field(ge=1)] = Field(
        default=4,
        description="Views of an image, which then come again: pass p shows view p modulo this.",
    )
    top_k: Annotated[Integer, Field(ge=0)] = Field(
        default=0,
        description="Logits kept of a view, the largest ones; 0 keeps all.",
    )


def _read_teacher_cache(value: Any) -> Any:
    value = read_none(value)
    if value is None or isinstance(value, dict | TeacherCacheConfig):
        return value
    if isinstance(value, bool) or value in ("true", "false"):
        return {} if value in (True, "true") else None
    raise PydanticCustomError("teacher_cache", "true, false, or a mapping with views and top_k")


TeacherCache = Annotated[TeacherCacheConfig | None, BeforeValidator(_read_teacher_cache)]

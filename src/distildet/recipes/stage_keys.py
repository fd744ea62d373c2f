"""What to say of a key that stands in the wrong place: one of a stage is told where it belongs."""

from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from distildet.errors import nearest_names
from distildet.recipes.stage_schema import LabelStage, TrainStage

_STAGES: Mapping[str, type[BaseModel]] = {"label": LabelStage, "train": TrainStage}


def accepted_keys(key: str, accepted: Iterable[str]) -> str:
    """Return a sentence with the accepted keys, and where the given one belongs or what is near.

    Args:
        key: What the user wrote.
        accepted: All keys that would have been right there.
    """
    homes = [name for name, stage in _STAGES.items() if key in stage.model_fields]
    if len(homes) != 1:
        return nearest_names(key, accepted)
    return f"{nearest_names('', accepted)} {key} is a key of a {homes[0]} stage."

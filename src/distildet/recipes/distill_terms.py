"""From the entries of `distill` to terms of the training loss."""

import inspect
from collections.abc import Sequence
from typing import Any

from distildet.errors import ConfigError, nearest_names
from distildet.losses.base import LOSSES
from distildet.recipes.distill_schema import DistillConfig
from distildet.recipes.options import typed_options
from distildet.recipes.stage_schema import LabelStage, TrainStage
from distildet.specs import DetectorSpec
from distildet.training.loop import seed_everything
from distildet.training.settings import TermSettings, TrainSettings
from distildet.training.terms import Term, term_names


def distill_faults(stages: Sequence[LabelStage | TrainStage | None]) -> list[str]:
    """Return one message for each fault of a loss's name or options, with its recipe path.

    Args:
        stages: Of a recipe; None stands for one that has a fault of its own.
    """
    return [
        f"stages[{index}].distill[{place}].{fault}"
        for index, stage in enumerate(stages)
        if isinstance(stage, TrainStage)
        for place, entry in enumerate(stage.distill)
        for fault in _typed(entry)[1]
    ]


def term_settings(entry: DistillConfig) -> TermSettings:
    """Return an entry with the options typed by the constructor of its loss.

    Raises:
        ConfigError: Unknown loss, or options that it does not take; all faults at once, by the
            key in the entry.
    """
    options, faults = _typed(entry)
    if faults:
        raise ConfigError("\n".join(faults))
    return TermSettings(
        loss=entry.loss,
        weight=entry.weight,
        share=1.0 if entry.share is None else entry.share,
        start=entry.schedule.start,
        stop=entry.schedule.stop,
        decay=entry.schedule.decay,
        options=options,
    )


def build_terms(
    settings: TrainSettings, student: DetectorSpec, teacher: DetectorSpec
) -> list[Term]:
    """Build the distillation losses of a stage for a pair of detectors.

    The projectors' random weights are a pure function of seed, stage and place in the list.

    Args:
        settings: Of the stage.
        student: Facts of the student.
        teacher: Facts of the teacher.

    Raises:
        DistildetError: A loss does not fit the pair.
    """
    terms = []
    names = term_names([term.loss for term in settings.terms])
    for place, (name, term) in enumerate(zip(names, settings.terms, strict=True)):
        seed_everything(settings.seed, f"{settings.stage} projectors", place)
        loss = LOSSES.get(term.loss)(student, teacher, **term.options)
        terms.append(Term(name, loss, term, steps=settings.steps))
    return terms


def _typed(entry: DistillConfig) -> tuple[dict[str, Any], list[str]]:
    if entry.loss not in LOSSES.names():
        return {}, [f"loss: found {entry.loss!r}. {nearest_names(entry.loss, LOSSES.names())}"]
    parameters = inspect.signature(LOSSES.get(entry.loss)).parameters
    return typed_options(entry.options, parameters)

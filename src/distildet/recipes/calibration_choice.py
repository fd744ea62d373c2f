"""How scores become comparable in a label stage, where the recipe leaves it open."""

from distildet.errors import ConfigError
from distildet.pseudolabels.calibrate import FITTED, Method
from distildet.pseudolabels.quarantine import num_accepted
from distildet.recipes.run_context import RunContext
from distildet.recipes.schema import LabelStage


def chosen_calibration(context: RunContext, stage: LabelStage) -> Method:
    """Return how the scores of those who label in a stage are made comparable.

    Args:
        context: Of the run.
        stage: With `auto` nothing is done to one alone; of several curves are fitted where there
            are labeled images and every teacher has an answer for them.
    """
    if stage.calibration != "auto":
        return stage.calibration
    if _num_labelers(context, stage) == 1:
        return "none"
    if context.data.labeled is None or why_not_fitted(context, stage) is not None:
        return "rank"
    return "temperature"


def why_not_fitted(context: RunContext, stage: LabelStage) -> str | None:
    """Return why no curves can be fitted: a teacher has no answer for the labeled images.

    Args:
        context: Of the run; its teachers know which images come.
        stage: It says how many images may lack an answer.
    """
    if context.data.labeled is None or stage.by == "student":
        return None
    samples = context.data.labeled.samples
    share = stage.max_bad_fraction if stage.on_bad_image == "quarantine" else 0.0
    accepted = num_accepted(len(samples), share)
    for place, teacher in enumerate(context.teachers):
        ids = teacher.detector.unanswered(samples)
        if len(ids) > accepted:
            return (
                f"teachers[{place}]: {teacher.name} does not list {len(ids)} of {len(samples)} "
                f"labeled images at their size, such as {ids[0]!r}"
            )
    return None


def require_fitting(context: RunContext, stage: LabelStage) -> str | None:
    """Make sure that a calibration that is asked for can be fitted.

    Args:
        context: Of the run; its teachers know which images come.
        stage: Of the recipe.

    Returns:
        A line that tells of what `auto` cannot do, if anything.

    Raises:
        ConfigError: Curves are asked for, and a teacher has no answer for the labeled images.
    """
    reason = why_not_fitted(context, stage)
    if reason is None:
        return None
    if stage.calibration in FITTED:
        raise ConfigError(
            f"found {stage.calibration}, which is fitted on the labeled images, but {reason}. "
            "Accepted here: rank, none; or let that teacher process these images too."
        )
    is_open = stage.calibration == "auto" and _num_labelers(context, stage) > 1
    return f"scores are calibrated by rank, since {reason}." if is_open else None


def _num_labelers(context: RunContext, stage: LabelStage) -> int:
    teachers = 0 if stage.by == "student" else len(context.teachers)
    return teachers + (stage.by != "teachers")

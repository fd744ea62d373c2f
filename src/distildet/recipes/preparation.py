"""Reads what a run depends on, and finds all that does not fit before any long work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from distildet.classes import ClassList, join_classes
from distildet.detectors.bundle import build_detector
from distildet.errors import ClassMapError, ConfigError, DistildetError
from distildet.losses.base import misfit
from distildet.ops.precision import Precision
from distildet.ops.processes import num_processes
from distildet.pseudolabels.select import choose_thresholds
from distildet.recipes.calibration_choice import require_fitting
from distildet.recipes.declared import teacher_of
from distildet.recipes.distill_terms import term_settings
from distildet.recipes.progress import Progress
from distildet.recipes.run_context import RunContext, Teacher, share_classes
from distildet.recipes.run_data import RunData, load_run_data
from distildet.recipes.schema import LabelStage, Recipe, TrainStage
from distildet.recipes.student import initial_student, student_options
from distildet.recipes.teacher_cache import refuse_uncached
from distildet.recipes.teacher_schema import AnyTeacherConfig
from distildet.specs import DetectorSpec
from distildet.training.interruption import Interruption

_USER_INPUT = DistildetError.exit_code


def prepare(
    recipe: Recipe,
    *,
    out: Path,
    device: torch.device,
    interruption: Interruption,
    progress: Progress,
    is_new: bool,
    precision: Precision = "fp32",
    source: Path | None = None,
) -> RunContext:
    """Read images, annotations and teachers, and make sure that they fit the recipe.

    Args:
        recipe: Resolved and checked by `load_recipe`.
        out: The run folder.
        device: Where to compute.
        interruption: Whether somebody asked to stop.
        progress: Told which classes belong together.
        is_new: Do once, before any long work, also what only the weights to start from, the
            thresholds and the losses can show; an old run has passed that.
        precision: What teachers and students compute in.
        source: The file of the recipe, which messages name.

    Raises:
        DistildetError: Faults of data, weights, class lists or stages; all that can be found at
            once are listed.
    """
    faults = _Faults(source)
    _refuse_unequal_shares(recipe, faults)
    data = None
    with faults.collected("data"):
        data = load_run_data(recipe.data)
    teachers: list[Teacher | None] = [None] * len(recipe.teachers)
    for index, config in enumerate(recipe.teachers):
        with faults.collected(f"teachers[{index}]"):
            teachers[index] = _loaded(config)
    classes = _classes(data, teachers, faults)
    if data is None or classes is None:
        raise faults.error()
    with faults.collected():
        data.require_images(recipe.stages)
    share_classes(teachers, classes)
    for index, teacher in enumerate(teachers):
        with faults.collected(f"teachers[{index}]"):
            if teacher is not None:
                teacher.map_to(classes)
    context = RunContext(
        recipe=recipe,
        data=data,
        classes=classes,
        out=out,
        device=device,
        interruption=interruption,
        progress=progress,
        teachers=tuple(teacher for teacher in teachers if teacher is not None),
        precision=precision,
    )
    are_expected = _expect_images(data, teachers, faults)
    if is_new:
        _rehearse(context, faults, has_teachers=len(context.teachers) == len(teachers))
        _require_calibrations(context, faults, are_expected=are_expected)
    if faults:
        raise faults.error()
    if is_new:
        _tell_teachers(context)
    return context


class _Faults:
    """Errors in what the user gave, kept until all are found.

    Args:
        source: The file of the recipe, if it has one.
    """

    def __init__(self, source: Path | None) -> None:
        self._head = "" if source is None else f"{source}: "
        self._found: list[tuple[str, DistildetError]] = []

    def __bool__(self) -> bool:
        """Tell whether something was found."""
        return bool(self._found)

    @contextmanager
    def collected(self, place: str = "") -> Iterator[None]:
        """Keep an error of the user's input that ends the block; others pass.

        Args:
            place: Key of the recipe; empty where the message names it.
        """
        try:
            yield
        except DistildetError as error:
            if error.exit_code != _USER_INPUT:
                raise
            self._found.append((place, error))

    def error(self) -> DistildetError:
        """Return what was found as one error, which the first fault has caused."""
        first = self._found[0][1]
        lines = [
            _placed(line, place) for place, error in self._found for line in str(error).split("\n")
        ]
        if len(self._found) == 1:
            error = type(first)(self._head + "\n".join(lines))
        else:
            count = sum(not line.startswith(" ") for line in lines)
            error = ConfigError("\n".join([f"{self._head}{count} faults:", *lines]))
        error.__cause__ = first  # has the traceback that --debug shows
        return error


def _placed(line: str, place: str) -> str:
    """Return a line of a message with the key of the recipe that it is about.

    Some lines begin with a key inside the place; those that are indented go on from others.
    """
    return line if line.startswith((place, " ")) else f"{place}: {line}"


def _refuse_unequal_shares(recipe: Recipe, faults: _Faults) -> None:
    """Find batches of training that the processes of the run cannot share out evenly."""
    count = num_processes()
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, LabelStage) or stage.batch_size % count == 0:
            continue
        below = stage.batch_size // count * count
        nearest = " or ".join(str(size) for size in (below, below + count) if size)
        with faults.collected(f"stages[{index}].batch_size"):
            raise ConfigError(
                f"found {stage.batch_size}, which {count} processes do not divide. Accepted: "
                f"multiples of {count}, such as {nearest}; or start another number of processes."
            )


def _loaded(config: AnyTeacherConfig) -> Teacher:
    return teacher_of(config).loaded()


def _classes(
    data: RunData | None, teachers: Sequence[Teacher | None], faults: _Faults
) -> ClassList | None:
    """Return the student's classes: those of the data, or all that some teacher has."""
    if data is not None and data.classes is not None:
        return data.classes
    if teachers:
        loaded = [teacher for teacher in teachers if teacher is not None]
        if len(loaded) < len(teachers):
            return None
        return join_classes([teacher.classes_and_map for teacher in loaded])
    with faults.collected():
        if data is not None:
            raise ConfigError(
                "Nothing says which classes the student learns: there are no labeled images, no "
                "validation images and no teacher. Give at least one of them."
            )
    return None


def _rehearse(context: RunContext, faults: _Faults, *, has_teachers: bool) -> None:
    """Do what can fail because of thresholds, of weights to start from, or of losses.

    Args:
        context: Of the run.
        faults: What is found is added.
        has_teachers: Whether all teachers could be loaded; else what needs one is passed over.
    """
    spec = None
    with faults.collected("student"):
        spec = _student_spec(context)
    for index, stage in enumerate(context.recipe.stages):
        place = f"stages[{index}]"
        if isinstance(stage, LabelStage):
            with faults.collected(place):
                choose_thresholds({}, context.classes, threshold=stage.threshold, labeled=None)
        elif spec is not None:
            if stage.init != "previous" and (has_teachers or stage.init != "teacher"):
                with faults.collected(place):
                    initial_student(context, stage, context.recipe.seeds[0], None)
            if has_teachers:
                _refuse_misfits(context, stage, spec, place, faults)


def _expect_images(data: RunData, teachers: Sequence[Teacher | None], faults: _Faults) -> bool:
    """Tell each teacher of all images of the run at once, and return whether it knows them apart.

    A file of boxes has one answer for one image, whichever stage asks first.
    """
    datasets = [data.dataset("all"), *([] if data.validation is None else [data.validation])]
    ids = [sample.id for dataset in datasets for sample in dataset.samples]
    known = 0
    for index, teacher in enumerate(teachers):
        with faults.collected(f"teachers[{index}]"):
            if teacher is not None:
                teacher.detector.expect(ids)
                known += 1
    return known == len(teachers)


def _require_calibrations(context: RunContext, faults: _Faults, *, are_expected: bool) -> None:
    """Find calibrations for which a teacher lacks answers, and tell where others take their place.

    Args:
        context: Of the run.
        faults: What is found is added.
        are_expected: Whether its teachers know which images come; else nothing is looked up.
    """
    for index, stage in enumerate(context.recipe.stages):
        if are_expected and isinstance(stage, LabelStage):
            with faults.collected(f"stages[{index}].calibration"):
                line = require_fitting(context, stage)
                if line is not None:
                    context.progress.message(f"stages[{index}].calibration: {line}")


def _student_spec(context: RunContext) -> DetectorSpec:
    """Return the facts of the student, which do not depend on its weights."""
    config = context.recipe.student
    student = build_detector(
        config.detector,
        classes=context.classes,
        image_size=context.recipe.data.image_size,
        pretrained=False,
        **student_options(config),
    )
    return student.spec


def _refuse_misfits(
    context: RunContext, stage: TrainStage, student: DetectorSpec, place: str, faults: _Faults
) -> None:
    """Find the losses of a stage that cannot compare its student with the teacher as told."""
    if not stage.distill:
        return
    try:
        teacher = context.teachers[stage.teacher].spec_for(context.classes)
    except ClassMapError:  # told of the teacher: what else a loss finds is told beside it
        teacher = replace(context.teachers[stage.teacher].detector.spec, classes=student.classes)
    for index, entry in enumerate(stage.distill):
        with faults.collected(f"{place}.distill[{index}]"):
            term = term_settings(entry)
            if stage.teacher_cache is not None:
                refuse_uncached(term.loss, student, teacher)
            reason = misfit(term.loss, student, teacher, term.options)
            if reason is not None:
                raise ConfigError(reason)


def _tell_teachers(context: RunContext) -> None:
    """Tell which classes belong together, what has no human labels, and what is not measured."""
    if context.teachers and context.data.labeled is None:
        context.progress.message(
            "There are no labeled images: no stage learns from human labels, and no baseline is "
            "trained."
        )
    for teacher in context.teachers:
        mapping = teacher.map_to(context.classes)
        if mapping.source != mapping.target:
            context.progress.message(f"Student's class <- class of {teacher.name}:")
            for line in mapping.table():
                context.progress.message(f"  {line}")
    for line in context.unmeasured.values():
        context.progress.message(f"Not measured: {line}.")

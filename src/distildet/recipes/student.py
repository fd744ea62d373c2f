"""The student of a run: its options, and the weights that each stage starts from."""

import inspect
from pathlib import Path
from typing import Any

from distildet.detectors.base import DETECTORS, Detector
from distildet.detectors.bundle import build_detector, load_detector
from distildet.errors import ConfigError, WeightsError, nearest_names
from distildet.recipes.options import typed_options
from distildet.recipes.run_context import RunContext
from distildet.recipes.run_folder import STUDENT
from distildet.recipes.schema import StudentConfig, TrainStage
from distildet.training.loop import seed_everything

# Options of a detector that the recipe states elsewhere.
_GIVEN_ELSEWHERE = ("pretrained", "image_size")
# Beginnings of the names of options that say what outputs mean, whatever the shapes of weights.
_OF_MEANING = ("anchor_", "region_canonical_size")


def student_options(config: StudentConfig) -> dict[str, Any]:
    """Return the options of the student's family, typed by its constructor.

    Raises:
        ConfigError: Unknown family, or options that it does not take; all faults at once.
    """
    options, faults = _typed(config)
    if faults:
        raise ConfigError("\n".join(faults))
    return options


def student_faults(config: StudentConfig) -> list[str]:
    """Return one message for each fault of the student's family and options."""
    return _typed(config)[1]


def _typed(config: StudentConfig) -> tuple[dict[str, Any], list[str]]:
    if config.detector not in DETECTORS.names():
        accepted = nearest_names(config.detector, DETECTORS.names())
        return {}, [f"student.detector: found {config.detector!r}. {accepted}"]
    parameters = dict(inspect.signature(DETECTORS.get(config.detector)).parameters)
    for name in _GIVEN_ELSEWHERE:
        parameters.pop(name, None)
    options, faults = typed_options(config.options, parameters)
    return options, [f"student.{fault}" for fault in faults]


def initial_student(
    context: RunContext, stage: TrainStage, seed: int, previous: Path | None
) -> Detector:
    """Build the student with the weights that a stage starts from.

    The random weights are a pure function of the seed, so that student and baseline of a seed
    start equal.

    Raises:
        WeightsError: The weights to start from do not fit the student.
    """
    if stage.init == "previous" and previous is not None:
        return load_detector(previous / STUDENT)
    seed_everything(seed, "initial weights", 0)
    config = context.recipe.student
    uses_pretrained = stage.init in {"pretrained", "teacher"}
    student = build_detector(
        config.detector,
        classes=context.classes,
        image_size=context.recipe.data.image_size,
        pretrained=config.pretrained if uses_pretrained else False,
        **student_options(config),
    )
    if stage.init == "teacher":
        _copy_neck_and_head(context.teachers[stage.teacher].detector, student, context)
    elif isinstance(stage.init, Path):
        _copy_all(load_detector(stage.init), student, stage.init, context)
    return student


def _copy_neck_and_head(teacher: Detector, student: Detector, context: RunContext) -> None:
    own, theirs = student.state_dict(), teacher.state_dict()
    _refuse_permuted_classes(teacher, context, "init: teacher")
    outside = _outside_the_backbone(student)
    if not _classes_agree(teacher, student):
        outside = [m for m in outside if not m.startswith(student.class_layers())]
    tensors = {
        module: [name for name in own if name.rpartition(".")[0] == module] for module in outside
    }
    # A module as a whole or not at all: BatchNorm's scale without its statistics would be wrong.
    taken = [
        name
        for names in tensors.values()
        if all(name in theirs and theirs[name].shape == own[name].shape for name in names)
        for name in names
    ]
    if not taken:
        raise WeightsError(
            "init: teacher copies neck and head where shapes agree, and none agrees between this "
            "teacher and this student. Give the student the teacher's neck_channels and "
            "head_depth, or use init: pretrained."
        )
    student.load_state_dict({**own, **{name: theirs[name] for name in taken}})
    count = sum(map(len, tensors.values()))
    context.progress.message(f"{len(taken)} of {count} tensors start as the teacher's.")


def _outside_the_backbone(student: Detector) -> list[str]:
    """Return the names of the modules with weights of their own outside of the backbone."""
    backbone = {id(parameter) for parameter in student.backbone_parameters()}
    return [
        name
        for name, module in student.named_modules()
        if any(id(p) not in backbone for p in module.parameters(recurse=False))
    ]


def _classes_agree(teacher: Detector, student: Detector) -> bool:
    """Tell whether the class layers of both mean the same, column by column."""
    unused = [d.spec.options.get("unused_columns", []) for d in (teacher, student)]
    return teacher.spec.classes == student.spec.classes and unused[0] == unused[1]


def _copy_all(source: Detector, student: Detector, path: Path, context: RunContext) -> None:
    _refuse_permuted_classes(source, context, str(path))
    _refuse_other_meaning(source, student, path)
    own, given = student.state_dict(), source.state_dict()
    others = [
        name
        for name in dict.fromkeys([*own, *given])
        if name not in own or name not in given or own[name].shape != given[name].shape
    ]
    if others:
        raise WeightsError(
            f"{path}: these weights do not fit the student: {len(others)} tensors are missing, "
            f"unknown or of another shape, such as {', '.join(others[:3])}. Give the student the "
            "options that these weights were trained with, or use init: pretrained."
        )
    student.load_state_dict(given)


def _refuse_other_meaning(source: Detector, student: Detector, path: Path) -> None:
    """Refuse weights that fit in shape and were trained for other boxes or anchors."""
    own, theirs = student.spec, source.spec
    differing = [
        f"{name} {theirs.options.get(name)!r} and not {value!r}"
        for name, value in own.options.items()
        if name.startswith(_OF_MEANING) and theirs.options.get(name) != value
    ]
    if own.family != theirs.family:
        differing = [f"the family {theirs.family!r} and not {own.family!r}"]
    if differing:
        raise WeightsError(
            f"{path}: these weights were trained with {', '.join(differing)}. Give the student the "
            "options that they were trained with, or use init: pretrained."
        )


def _refuse_permuted_classes(source: Detector, context: RunContext, where: str) -> None:
    """Refuse weights of as many but other classes: their class layers fit in shape alone."""
    own, theirs = tuple(context.classes), tuple(source.spec.classes)
    if len(own) == len(theirs) and own != theirs:
        raise WeightsError(
            f"{where}: the weights are for the classes {', '.join(theirs)}, the student learns "
            f"{', '.join(own)}. Bring the annotations to the same names in the same order, or use "
            "init: pretrained."
        )

"""Runs a recipe from its data to `result.json`, going on where an earlier call stopped."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from distildet import artefacts
from distildet.detectors.base import Detector
from distildet.detectors.bundle import load_detector
from distildet.evaluation.detect_dataset import detect_dataset, write_detections
from distildet.ops.precision import Precision
from distildet.ops.processes import from_first
from distildet.ops.shared_work import on_first
from distildet.recipes.label_stage import run_label_stage, with_labels_of
from distildet.recipes.load import dump_recipe
from distildet.recipes.preparation import prepare
from distildet.recipes.progress import Progress
from distildet.recipes.remarks import REMARKS, shorten_remarks
from distildet.recipes.result import build_result
from distildet.recipes.run_context import RunContext
from distildet.recipes.run_data import changed_files, common_root
from distildet.recipes.run_folder import (
    BASELINE,
    DATA,
    DETECTIONS,
    RECIPE,
    RESULT,
    SETTINGS,
    STUDENT,
    WEIGHTS,
    arm_folder,
    changed_settings,
    check_same,
    environment,
    keeping_to_its_images,
    locked,
    read_json,
    refuse_foreign,
    remove_leftovers,
    settings_of,
    stage_folder,
    teacher_folders,
)
from distildet.recipes.schema import LabelStage, Recipe, TrainStage, without_teachers
from distildet.recipes.train_stage import EVALUATION_BATCH, run_train_stage
from distildet.training.device import choose_device
from distildet.training.distributed import process_group
from distildet.training.interruption import interruptible


@dataclass(frozen=True, kw_only=True)
class _Arm:
    """One chain of stages of one seed.

    Args:
        folder: Where its stages are.
        stages: In order; label stages only in the student's arm.
        steps: Optimiser steps of each stage; None for label stages.
    """

    folder: Path
    stages: Sequence[LabelStage | TrainStage]
    steps: Sequence[int | None]


def run_recipe(
    recipe: Recipe,
    *,
    out: Path,
    device: str,
    progress: Progress,
    precision: Precision = "fp32",
    source: Path | None = None,
) -> dict[str, Any]:
    """Run a recipe, or go on with it, and return what `result.json` holds.

    Args:
        recipe: Resolved and checked by `load_recipe`.
        out: The run folder.
        device: As for `choose_device`.
        progress: Told everything that a user may want to see.
        precision: What teachers and students compute in, but for evaluation. A run keeps to it.
        source: The file of the recipe, which messages name.

    Raises:
        ConfigError: The folder holds something else, or cannot be written; or the device does
            not compute in the precision.
        StageError: The folder belongs to another recipe, other data, another precision, or
            another process.
        DistildetError: Any fault of data, weights or settings, named.
    """
    with process_group():
        chosen = choose_device(device, precision)
        # On the CPU every kernel then adds up in a fixed order; resuming is exact to the bit.
        torch.use_deterministic_algorithms(chosen.type == "cpu")
        with _entered(out), interruptible() as interruption:
            settings = settings_of(recipe, precision)
            check_same(out / SETTINGS, settings, "settings", changed_settings)
            finished = on_first(lambda: _finished(out, recipe))
            if finished is not None:
                progress.message(f"{out}: this run has already finished.")
                return finished
            context = prepare(
                recipe,
                out=out,
                device=chosen,
                interruption=interruption,
                progress=progress,
                precision=precision,
                is_new=on_first(lambda: not (out / SETTINGS).exists()),
                source=source,
            )
            _begin(context)
            with keeping_to_its_images(out):
                for seed in recipe.seeds:
                    for arm in _arms(context, seed):
                        _run_arm(context, arm, seed)
                _detect_teachers(context)
            return on_first(lambda: _written_result(context))


@contextmanager
def _entered(out: Path) -> Iterator[None]:
    """Hold the run folder for all processes of this run, and none besides."""
    with ExitStack() as held:
        on_first(lambda: _enter(out, held))
        yield


def _enter(out: Path, held: ExitStack) -> None:
    refuse_foreign(out)
    held.enter_context(locked(out))
    remove_leftovers(out)


def _written_result(context: RunContext) -> dict[str, Any]:
    result = build_result(context)
    artefacts.write_json(context.out / RESULT, result)
    return result


def _tell_remarks(context: RunContext) -> None:
    lines = context.data.remarks()
    if not lines:
        return
    context.progress.message("Left out of the data, or worth a look:")
    for line in shorten_remarks(lines):
        context.progress.message(f"  {line}")


def _begin(context: RunContext) -> None:
    """Note what the run depends on, or refuse to go on with something else.

    Settings are noted after all that can be wrong in them was found, so that a recipe can be
    mended and run again in the same folder.
    """
    out = context.out
    files = context.data.fingerprints()
    weights = {
        f"teachers[{index}]": teacher.fingerprint for index, teacher in enumerate(context.teachers)
    }
    check_same(
        out / DATA,
        files,
        "data",
        partial(changed_files, root=common_root(context.recipe.data)),
    )
    check_same(out / WEIGHTS, weights, "weights")
    on_first(lambda: _note(context, files, weights))
    _tell_remarks(context)


def _note(
    context: RunContext, files: Mapping[str, Mapping[str, str]], weights: Mapping[str, str]
) -> None:
    out, recipe = context.out, context.recipe
    if not (out / SETTINGS).exists():
        artefacts.write_json(out / SETTINGS, settings_of(recipe, context.precision))
    artefacts.write_json(out / DATA, files)
    artefacts.write_json(out / WEIGHTS, weights)
    artefacts.write_text(out / RECIPE, dump_recipe(recipe))
    artefacts.write_json(out / "environment.json", environment(context.device))
    lines = context.data.remarks()
    if lines:
        artefacts.write_text(out / REMARKS, "".join(f"{line}\n" for line in lines))


def _finished(out: Path, recipe: Recipe) -> dict[str, Any] | None:
    path = out / RESULT
    if not path.exists():
        return None
    result: dict[str, Any] = read_json(path)
    return result if result["seeds"] == list(recipe.seeds) else None


def _arms(context: RunContext, seed: int) -> list[_Arm]:
    recipe = context.recipe
    sizes = context.data.sizes()
    steps = [
        stage.steps_for(sizes) if isinstance(stage, TrainStage) else None for stage in recipe.stages
    ]
    arms = [_Arm(folder=arm_folder(context.out, seed, STUDENT), stages=recipe.stages, steps=steps)]
    if recipe.baseline:
        arms.append(
            _Arm(
                folder=arm_folder(context.out, seed, BASELINE),
                stages=without_teachers(recipe.stages),
                steps=[count for count in steps if count is not None],
            )
        )
    return arms


def _run_arm(context: RunContext, arm: _Arm, seed: int) -> None:
    previous: Path | None = None
    labels: list[tuple[Path, LabelStage]] = []
    for index, (stage, steps) in enumerate(zip(arm.stages, arm.steps, strict=True)):
        folder = stage_folder(arm.folder, index, stage)
        if isinstance(stage, LabelStage):
            run_label_stage(context, stage, folder, previous=previous)
            labels.append((folder, stage))
        elif steps is not None:
            run_train_stage(
                context,
                stage,
                folder,
                seed=seed,
                steps=steps,
                previous=previous,
                labels=labels,
            )
            previous = folder
    if previous is not None:
        _detect_student(context, previous / STUDENT, arm.folder / DETECTIONS)


def _detect_teachers(context: RunContext) -> None:
    places = teacher_folders(context.out, len(context.teachers))
    for place, (teacher, folder) in enumerate(zip(context.teachers, places, strict=True)):
        path = folder / DETECTIONS
        if (
            context.data.validation is not None
            and place not in context.unmeasured
            and not from_first(path.exists())
        ):
            labels = teacher.map_to(context.classes).labels
            _detect(context, teacher.detector, path, labels)


def _detect_student(context: RunContext, bundle: Path, path: Path) -> None:
    if context.data.validation is not None and not from_first(path.exists()):
        _detect(context, load_detector(bundle), path, tuple(range(len(context.classes))))


def _detect(
    context: RunContext, detector: Detector, path: Path, labels: Sequence[int | None]
) -> None:
    """Keep a detector's detections of the validation images, labels in the student's classes."""
    validation = context.data.validation
    if validation is None:
        return

    def note(done: int, total: int) -> None:
        context.interruption.raise_if_requested()
        context.progress.advance(context.work(path), done, total)

    detections = detect_dataset(
        detector,
        validation.samples,
        batch_size=EVALUATION_BATCH,
        workers=context.recipe.data.workers,
        device=context.device,
        progress=note,
    )
    named = {name: with_labels_of(found, labels) for name, found in detections.items()}
    on_first(lambda: write_detections(path, named))

"""result.json: what a finished run measured, schema version 1 of the design."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from distildet import artefacts
from distildet.data.dataset import Dataset
from distildet.detectors.base import Detector
from distildet.detectors.bundle import load_detector
from distildet.evaluation.coco_metrics import Evaluation, evaluate_detections
from distildet.evaluation.comparison import Interval, compare_evaluations, verdict
from distildet.evaluation.cost import measure_cost
from distildet.evaluation.detect_dataset import predictor, read_detections
from distildet.recipes.run_context import RunContext
from distildet.recipes.run_data import load_run_data
from distildet.recipes.run_folder import (
    BASELINE,
    DETECTIONS,
    STUDENT,
    TEACHER,
    arm_folder,
    last_train_folder,
    read_done,
    teacher_folders,
    train_folders,
)
from distildet.recipes.schema import Recipe, without_teachers
from distildet.structures import ImageBatch

SCHEMA = 1
_DONE_KEYS = {
    "steps": "steps",
    "rejected_steps": "rejected",
    "overflow_steps": "overflows",
    "images_seen": "images_seen",
    "seconds": "seconds",
}
"""Key of the result -> key of what each train stage notes when it is done."""
_STEP_KEYS = ("steps", "rejected_steps", "overflow_steps")


def build_result(context: RunContext) -> dict[str, Any]:
    """Evaluate what the stages left, compare, and put the best seed's student in `student/`.

    Args:
        context: Of a run whose stages have all finished.

    Returns:
        The content of `result.json`; metrics are fractions 0..1, None where undefined.
    """
    recipe = context.recipe
    validation = context.data.validation
    arms = [STUDENT, *([BASELINE] if recipe.baseline else [])]
    evaluations = {
        arm: _evaluations(validation, [arm_folder(context.out, seed, arm) for seed in recipe.seeds])
        for arm in arms
    }
    best = recipe.seeds[_best(evaluations[STUDENT])]
    best_folder = last_train_folder(arm_folder(context.out, best, STUDENT), recipe.stages)
    with artefacts.new_folder(context.out / STUDENT) as temporary:
        shutil.copytree(best_folder / STUDENT, temporary, dirs_exist_ok=True)
    models: dict[str, Any] = {}
    teachers, best_teacher = _teachers(context)
    if teachers:
        models[TEACHER] = teachers[best_teacher]
    cost = _cost(context, load_detector(context.out / STUDENT))
    for arm in reversed(arms):
        models[arm] = _model(evaluations[arm], cost)
    gain = _gain(recipe, evaluations)
    noted = {
        key: {arm: _noted(context, arm, done_key) for arm in arms}
        for key, done_key in _DONE_KEYS.items()
    }
    return {
        "schema": SCHEMA,
        "name": recipe.name,
        "seeds": list(recipe.seeds),
        "models": models,
        **({"teachers": teachers, "best_teacher": best_teacher} if len(teachers) > 1 else {}),
        "gain": {name: _interval(interval) for name, interval in gain.items()},
        "verdict": verdict(gain.get("AP")),
        "not_measured": _not_measured(context),
        "best_seed": best,
        **noted,
        "warnings": unequal_steps(recipe.seeds, noted),
    }


def arm_evaluations(recipe: Recipe, out: Path, arm: str) -> list[Evaluation]:
    """Evaluate the kept detections of a finished run again, one evaluation a seed.

    Args:
        recipe: The run's own.
        out: The run folder.
        arm: "student" or "baseline".
    """
    validation = load_run_data(recipe.data).validation
    return _evaluations(validation, [arm_folder(out, seed, arm) for seed in recipe.seeds])


def unequal_steps(
    seeds: Sequence[int], noted: Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
) -> list[str]:
    """Return a line for each seed whose student and baseline learned in unequal numbers of steps.

    Args:
        seeds: Of the run.
        noted: "steps", "rejected_steps" and "overflow_steps" of a result: by arm, for each seed,
            for each train stage.
    """
    if BASELINE not in noted["steps"]:
        return []
    lines = []
    for place, seed in enumerate(seeds):
        taken = {
            arm: [
                steps - rejected - overflows
                for steps, rejected, overflows in zip(
                    *(noted[key][arm][place] for key in _STEP_KEYS), strict=True
                )
            ]
            for arm in (STUDENT, BASELINE)
        }
        if taken[STUDENT] != taken[BASELINE]:
            steps = sum(noted["steps"][STUDENT][place])
            lines.append(
                f"seed {seed}: of {steps} steps the student learned in {sum(taken[STUDENT])} and "
                f"the baseline in {sum(taken[BASELINE])}, since steps were left out (see "
                "rejected_steps and overflow_steps in result.json). They are not compared at equal "
                "steps."
            )
    return lines


def _evaluations(validation: Dataset | None, folders: Sequence[Path]) -> list[Evaluation]:
    if validation is None:
        return []
    return [
        evaluate_detections(validation, read_detections(folder / DETECTIONS)) for folder in folders
    ]


def _best(evaluations: Sequence[Evaluation]) -> int:
    aps = [evaluation.metrics["AP"] or 0.0 for evaluation in evaluations]
    return max(range(len(aps)), key=aps.__getitem__, default=0)


def _model(evaluations: Sequence[Evaluation], cost: Mapping[str, Any]) -> dict[str, Any]:
    per_seed = [evaluation.metrics for evaluation in evaluations]
    per_class: dict[str, Any] = {}
    if evaluations:
        per_class = {
            name: _mean([evaluation.per_class[name] for evaluation in evaluations])
            for name in evaluations[0].per_class
        }
    return {
        "metrics": _mean(per_seed) if per_seed else None,
        "per_seed": per_seed,
        "per_class": per_class,
        **cost,
    }


def _teachers(context: RunContext) -> tuple[list[dict[str, Any]], int]:
    """Return what was measured of each teacher, and the place of the best, or of the first."""
    evaluations = [
        _evaluations(context.data.validation, [] if place in context.unmeasured else [folder])
        for place, folder in enumerate(teacher_folders(context.out, len(context.teachers)))
    ]
    models = [
        _model(own, _cost(context, teacher.detector))
        for own, teacher in zip(evaluations, context.teachers, strict=True)
    ]
    measured = [place for place, own in enumerate(evaluations) if own]
    best = measured[_best([evaluations[place][0] for place in measured])] if measured else 0
    return models, best


def _mean(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        defined = [value for value in values if value is not None]
        means[name] = sum(defined) / len(defined) if len(defined) == len(values) else None
    return means


def _cost(context: RunContext, detector: Detector) -> dict[str, Any]:
    """Measure a detector on one square image of its own size; None is what cannot be measured."""
    if not detector.computes:
        return dict.fromkeys(("parameters", "gflops", "latency_ms", "latency_device"))
    side = detector.spec.image_size
    size = torch.tensor([[side, side]])
    batch = ImageBatch(
        pixels=torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)),
        sizes=size,
        image_sizes=size,
        image_to_batch=torch.eye(3, dtype=torch.float64)[None],
        image_ids=("cost",),
    )
    predict = predictor(detector, context.device)
    cost = measure_cost(detector, lambda: predict(batch))
    return {
        "parameters": cost.parameters,
        "gflops": cost.gflops,
        "latency_ms": cost.latency_ms,
        "latency_device": cost.device,
    }


def _gain(recipe: Recipe, evaluations: Mapping[str, Sequence[Evaluation]]) -> dict[str, Interval]:
    if not evaluations.get(BASELINE) or recipe.data.validation is None:
        return {}
    return compare_evaluations(
        evaluations[STUDENT],
        evaluations[BASELINE],
        scene_gap=recipe.data.validation.scene_gap,
    )


def _interval(interval: Interval) -> dict[str, Any]:
    return {"value": interval.value, "ci95": [interval.low, interval.high]}


def _not_measured(context: RunContext) -> list[str]:
    reasons = []
    if context.data.validation is None:
        reasons.append("metrics: the recipe has no data.validation")
    reasons += context.unmeasured.values()
    if not context.recipe.baseline:
        why = "" if context.data.labeled is not None else ", which learns from data.labeled"
        reasons.append(f"gain: the recipe has no baseline{why}")
    return reasons


def _noted(context: RunContext, arm: str, key: str) -> list[Any]:
    """Return what the train stages of each seed noted: a list of stages for each seed."""
    stages = context.recipe.stages
    arm_stages = without_teachers(stages) if arm == BASELINE else stages
    return [
        [
            # Before steps were counted apart, stages noted no overflows.
            read_done(folder).get(key, 0)
            for folder in train_folders(arm_folder(context.out, seed, arm), arm_stages)
        ]
        for seed in context.recipe.seeds
    ]

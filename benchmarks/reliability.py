"""Measures whether the reliability of `global-knowledge` falls when an object is spoiled.

    python benchmarks/reliability.py TEACHER STUDENT

Both are bundles of detectors with the same classes and pyramid levels. Prototypes are chosen from
the training images; then each object of the validation images is measured as it is and spoiled.
The result goes to `results/reliability/fod.json`, the tables to `docs/benchmarks/reliability.md`
and the figure beside it. The exit code is 1 where a goal is missed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from marked_page import write_tables
from reliability_steps.counting import counted
from reliability_steps.measuring import (
    CLEAR,
    MEAN,
    Pair,
    Reliabilities,
    fill,
    reliabilities,
)
from reliability_steps.page import figure, tables
from reliability_steps.spoiling import HALF_COVERED, HARMLESS, spoilings

from distildet import artefacts, load_detector
from distildet.data.coco import read_coco
from distildet.data.dataset import Dataset
from distildet.data.subset import scenes
from distildet.detectors.bundle import bundle_fingerprint
from distildet.errors import DistildetError
from distildet.losses.global_knowledge import GlobalKnowledge
from distildet.recipes.run_data import with_classes

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data" / "fod"
PAGE = HERE.parent / "docs" / "benchmarks" / "reliability.md"

GOAL = 0.7
STRENGTH_OF_GOAL = "blur 0.1"
CASES: Mapping[str, Mapping[str, Any]] = {
    "paper": {"variant": "paper"},
    "official": {"variant": "official"},
    "paper, cosine": {"variant": "paper", "projection": "cosine"},
    "paper, ridge": {"variant": "paper", "projection": "ridge"},
    "official, kmeans": {"variant": "official", "prototypes": "kmeans"},
}
WITH_GOAL = ("paper", "official")


def main() -> int:
    """Measure, keep the result, write tables and figure; return 1 if a goal is missed."""
    arguments = _parse()
    torch.set_num_threads(1)
    try:
        document = measure(arguments)
    except DistildetError as error:
        raise SystemExit(f"reliability.py: {error}") from None
    artefacts.write_json(arguments.result, document)
    print("\n".join(tables(document)))
    write_tables(arguments.page, tables(document))
    artefacts.write_text(arguments.page.with_suffix(".svg"), figure(document))
    return 0 if all(document["met"].values()) else 1


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the result as JSON values."""
    teacher, student = (load_detector(path) for path in (arguments.teacher, arguments.student))
    pair = Pair(student=student, teacher=teacher)
    training, validation = (
        with_classes(read_coco(arguments.images, path), student.spec.classes)
        for path in (arguments.training, arguments.validation)
    )
    losses = {
        name: GlobalKnowledge(student.spec, teacher.spec, terms=("global",), **options)
        for name, options in CASES.items()
    }
    numbers = fill(losses, pair, training, seed=arguments.seed)
    found = reliabilities(losses, pair, validation, spoilings(), seed=arguments.seed)
    groups = _objects_of_scenes(validation, arguments.scene_gap)
    falls = {way: _counted(found[CLEAR], found[way], groups) for way in spoilings()}
    return {
        "teacher": bundle_fingerprint(arguments.teacher),
        "student": bundle_fingerprint(arguments.student),
        "training": arguments.training.name,
        "validation": arguments.validation.name,
        "seed": arguments.seed,
        "images": len(validation),
        "objects": sum(map(len, groups)),
        "scenes": len(groups),
        "cases": {
            name: {
                "variant": loss.options.variant,
                "projection": loss.options.own_projection,
                "choice": loss.options.prototypes,
                "prototypes": numbers[name],
            }
            for name, loss in losses.items()
        },
        "goal": GOAL,
        "met": {
            f"{name}, {way}": falls[way][name][MEAN]["falls"] >= GOAL
            for name in WITH_GOAL
            for way in (STRENGTH_OF_GOAL, HALF_COVERED)
        },
        "shown_by_level": [STRENGTH_OF_GOAL, HALF_COVERED],
        "falls": falls,
        "falls_below": {
            harmless: {
                way: _counted(found[harmless], found[way], groups)
                for way in (STRENGTH_OF_GOAL, HALF_COVERED)
            }
            for harmless in HARMLESS
        },
    }


def _counted(
    before: Reliabilities, after: Reliabilities, groups: Sequence[Sequence[int]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Return loss -> level -> how often reliability falls from one view to another."""
    return {
        name: {
            level: counted(before[name][level].numpy(), values.numpy(), groups)
            for level, values in levels.items()
        }
        for name, levels in after.items()
    }


def _objects_of_scenes(dataset: Dataset, gap: int) -> list[list[int]]:
    """Return the numbers of the objects of each scene that has any, counted image by image."""
    objects, count = [], 0
    for sample in dataset.samples:
        annotations = sample.annotations
        own = 0 if annotations is None else int((~annotations.crowd).sum())
        objects.append(range(count, count + own))
        count += own
    found = [
        [one for image in scene for one in objects[image]] for scene in scenes(dataset.samples, gap)
    ]
    return [scene for scene in found if scene]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("teacher", type=Path, help="bundle")
    parser.add_argument("student", type=Path, help="bundle")
    parser.add_argument("--images", type=Path, default=DATA / "images", help="folder (FOD)")
    parser.add_argument(
        "--training", type=Path, default=DATA / "bright_train.json", help="COCO json (FOD, bright)"
    )
    parser.add_argument(
        "--validation", type=Path, default=DATA / "bright_val.json", help="COCO json (FOD, bright)"
    )
    parser.add_argument("--scene-gap", type=int, default=20, help="as in a recipe (20)")
    parser.add_argument("--seed", type=int, default=0, help="(0)")
    parser.add_argument(
        "--result", type=Path, default=HERE / "results" / "reliability" / "fod.json"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="page with marks for the tables")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

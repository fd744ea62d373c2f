"""`distildet run`: the main job."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distildet.cli.console import Console, print_line, speaks
from distildet.cli.options import DeviceOption, PrecisionOption

if TYPE_CHECKING:
    from distildet.ops.precision import Precision
    from distildet.recipes.schema import Recipe


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe file (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change one value, such as stages[1].epochs=3."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/NAME.")] = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Run a recipe: teacher, student, baseline, result. Continues by itself.

    Example: distildet run recipe.yaml --set seeds=[0,1,2]
    With two GPUs: torchrun --nproc-per-node 2 -m distildet run recipe.yaml
    """
    from distildet.recipes.load import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    run_and_show(loaded, out or Path("runs") / loaded.name, device, precision, source=recipe)


def run_and_show(
    recipe: "Recipe",
    out: Path,
    device: str,
    precision: "Precision" = "fp32",
    *,
    source: Path | None = None,
) -> dict[str, Any]:
    """Run a loaded recipe with progress and print its result.

    Of several processes only the first shows anything.

    Args:
        recipe: Resolved and checked.
        out: The run folder.
        device: Where to compute.
        precision: What to compute in.
        source: The file of the recipe, if it has one.
    """
    from distildet.recipes.progress import Silence
    from distildet.recipes.runner import run_recipe

    run_here = partial(
        run_recipe, recipe, out=out, device=device, precision=precision, source=source
    )
    if not speaks():
        return run_here(progress=Silence())
    console = Console()
    try:
        result = run_here(progress=console)
    finally:
        console.close()
    for line in result_lines(result, out):
        print_line(line)
    return result


def result_lines(result: dict[str, Any], out: Path) -> list[str]:
    """Return a result as lines of text: a row a model, the gain, the verdict, the places."""
    lines = [f"{'':<10}{'AP':>7}{'AP50':>7}{'AP75':>7}{'parameters':>12}{'GFLOPs':>8}{'ms':>8}"]
    several = {f"teacher {i}": model for i, model in enumerate(result.get("teachers", ()))}
    for name, model in {**several, **result["models"]}.items():
        metrics = model["metrics"] or {}
        cells = "".join(_percent(metrics.get(key)).rjust(7) for key in ("AP", "AP50", "AP75"))
        lines.append(
            f"{name:<10}{cells}{_number(model['parameters'], ','):>12}"
            f"{_number(model['gflops'], '.2f'):>8}{_number(model['latency_ms'], '.1f'):>8}"
        )
    for name, gain in result["gain"].items():
        low, high = gain["ci95"]
        lines.append(
            f"student - baseline, {name}: {100 * gain['value']:+.1f} "
            f"(95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
        )
    lines.append(f"verdict: {result['verdict']}, {len(result['seeds'])} seed(s)")
    lines += [f"not measured: {reason}" for reason in result["not_measured"]]
    # Runs that finished before there were warnings have none.
    lines += [f"warning: {reason}" for reason in result.get("warnings", ())]
    return [*lines, f"student: {out / 'student'}", f"result:  {out / 'result.json'}"]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"

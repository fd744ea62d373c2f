"""`distildet demo`: the whole job on pictures that it makes itself."""

from pathlib import Path
from typing import Annotated

import typer

from distildet.cli.console import print_line
from distildet.cli.options import DeviceOption


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the images, recipes and runs.")] = Path(
        "runs/demo"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Number of paired runs.")] = 1,
    device: DeviceOption = "auto",
) -> None:
    """Make images, train a teacher, distill a small student, and show what it gained. Offline.

    Example: distildet demo
    """
    from distildet.cli.run import run_and_show
    from distildet.recipes.demo import write_demo
    from distildet.recipes.load import load_recipe

    print_line(f"Making images and recipes in {out}.")
    recipes = write_demo(out)
    seed_list = f"seeds=[{', '.join(map(str, range(seeds)))}]"
    print_line(f"Training the teacher: distildet run {recipes.teacher}")
    run_and_show(load_recipe(recipes.teacher), out / "teacher", device)
    print_line(f"Distilling the student: distildet run {recipes.student} --set '{seed_list}'")
    run_and_show(load_recipe(recipes.student, [seed_list]), out / "student", device)

"""The recipes in the pages of the methods: whoever copies one gets a recipe that is sound."""

import re
from pathlib import Path

import pytest

from distildet.recipes.load import load_recipe

PAGES = Path(__file__).parents[2] / "docs" / "methods"


def test_the_recipe_of_several_teachers_is_complete(tmp_path):
    page = (PAGES / "pseudo-label.md").read_text("utf-8")
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)

    loaded = load_recipe(tmp_path / "recipe.yaml", check_named=False)

    assert [teacher.trust for teacher in loaded.teachers] == [1, 2]
    assert [stage.by for stage in loaded.stages[::2]] == ["teachers", "all"]


@pytest.mark.parametrize(
    ("loss", "place"),
    [
        ("adaptive", 0),
        ("adaptive", 1),
        ("feature-imitation", 0),
        ("foreground-imitation", 0),
        ("global-knowledge", 0),
        ("global-knowledge", 1),
        ("hands-on-guidance", 0),
        ("hands-on-guidance", 1),
    ],
)
def test_the_recipes_of_a_loss_are_complete_and_have_the_loss(tmp_path, loss, place):
    page = (PAGES / f"{loss}.md").read_text("utf-8")
    recipes = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipes[place])

    loaded = load_recipe(tmp_path / "recipe.yaml", check_named=False)

    assert [term.loss for term in loaded.stages[-1].distill] == [loss]

"""The recipes in the pages of the methods: whoever copies one gets a recipe that is sound."""

import re
from pathlib import Path

import pytest

from distildet.recipes.load import load_recipe

PAGES = Path(__file__).parents[2] / "docs" / "methods"


@pytest.mark.parametrize("loss", ["adaptive", "feature-imitation"])
def test_the_recipe_of_a_loss_is_complete_and_has_the_loss(tmp_path, loss):
    page = (PAGES / f"{loss}.md").read_text("utf-8")
    [recipe] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "recipe.yaml").write_text(recipe)

    loaded = load_recipe(tmp_path / "recipe.yaml", check_named=False)

    assert [term.loss for stage in loaded.stages for term in stage.distill] == [loss]

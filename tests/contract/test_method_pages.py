"""The recipes in the pages of the methods: whoever copies one gets a recipe that is sound."""

import re
from pathlib import Path

import pytest

from distildet.recipes.load import load_recipe

PAGES = Path(__file__).parents[2] / "docs" / "methods"


@pytest.fixture
def recipe_of(tmp_path):
    """The recipe in a place of a page, loaded."""

    def load(page, place):
        blocks = re.findall(r"```yaml\n(.*?)```", (PAGES / page).read_text("utf-8"), re.DOTALL)
        (tmp_path / "recipe.yaml").write_text(blocks[place])
        return load_recipe(tmp_path / "recipe.yaml", check_named=False)

    return load


def test_the_recipe_of_several_teachers_is_complete(recipe_of):
    recipe = recipe_of("pseudo-label.md", 0)

    assert [teacher.trust for teacher in recipe.teachers] == [1, 2]
    assert [stage.by for stage in recipe.stages[::2]] == ["teachers", "all"]
    # What the page says of labels that are made once holds for it.
    assert [stage.images for stage in recipe.stages[::2]] == ["all", "all"]


def test_the_recipe_of_a_new_domain_is_complete_and_has_a_baseline(recipe_of):
    recipe = recipe_of("pseudo-label.md", 1)

    assert recipe.stages[1].targets == {"labeled": "human", "unlabeled": "pseudo"}
    assert recipe.baseline


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
def test_the_recipes_of_a_loss_are_complete_and_have_the_loss(recipe_of, loss, place):
    recipe = recipe_of(f"{loss}.md", place)

    assert [term.loss for term in recipe.stages[-1].distill] == [loss]

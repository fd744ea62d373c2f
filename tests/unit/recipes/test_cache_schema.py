"""The option teacher_cache: what a recipe may say, and what it then means."""

import pytest

from distildet.errors import ConfigError
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.recipes.load import dump_recipe
from distildet.recipes.schema import without_teachers

DISTILL = "stages[1].distill=[{loss: adaptive}]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("true", TeacherCacheConfig(views=4, top_k=0)),
        ("{}", TeacherCacheConfig(views=4, top_k=0)),
        ("{views: 2, top_k: 1000}", TeacherCacheConfig(views=2, top_k=1000)),
        ("false", None),
        ("null", None),
    ],
)
def test_a_recipe_says_how_much_is_stored(load_distilled, text, expected):
    recipe = load_distilled(DISTILL, f"stages[1].teacher_cache={text}")

    assert recipe.stages[1].teacher_cache == expected


def test_by_default_nothing_is_stored(load_distilled):
    assert load_distilled(DISTILL).stages[1].teacher_cache is None


@pytest.mark.parametrize("text", ["false", "{views: 3}"])
def test_a_recipe_with_a_cache_survives_writing(load_distilled, load_text, text):
    recipe = load_distilled(DISTILL, f"stages[1].teacher_cache={text}")

    assert load_text(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yes", r"stages\[1\]\.teacher_cache: found 'yes'.* true, false, or a mapping"),
        ("4", r"stages\[1\]\.teacher_cache: found '4'.* true, false, or a mapping"),
        ("{views: 0}", r"stages\[1\]\.teacher_cache\.views: found '0'"),
        ("{top_k: -1}", r"stages\[1\]\.teacher_cache\.top_k: found '-1'"),
        ("{view: 3}", r"stages\[1\]\.teacher_cache\.view: .*Did you mean 'views'"),
    ],
)
def test_anything_else_is_refused(load_distilled, text, message):
    with pytest.raises(ConfigError, match=message):
        load_distilled(DISTILL, f"stages[1].teacher_cache={text}")


def test_a_cache_of_nothing_is_refused(load_distilled):
    with pytest.raises(
        ConfigError, match=r"stages\[1\]\.teacher_cache: there is nothing to store: `distill`"
    ):
        load_distilled("stages[1].teacher_cache=true")


def test_the_baseline_has_no_cache(load_distilled):
    recipe = load_distilled(DISTILL, "stages[1].teacher_cache=true")

    assert without_teachers(recipe.stages)[0].teacher_cache is None

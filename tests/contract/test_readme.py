"""What the README shows is what there is."""

import ast
import re

import pytest
import yaml
from typer.main import get_command

import distildet
from distildet.cli.app import app
from distildet.recipes.load import load_recipe, preset_names


@pytest.fixture
def readme(project):
    return (project / "README.md").read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_every_recipe_of_the_readme_is_valid(readme, tmp_path):
    recipes = blocks(readme, "yaml")

    for number, text in enumerate(recipes):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert load_recipe(path, check_named=False).stages

    assert recipes


def test_every_command_of_the_readme_exists_with_its_options(readme):
    shown = re.findall(r"`distildet ([a-z]+)([^`]*)`", readme)
    commands = get_command(app).commands

    assert {name for name, _ in shown} == set(commands)
    for name, rest in shown:
        options = {option for p in commands[name].params for option in p.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options


def test_every_public_name_of_the_readme_exists(readme):
    for snippet in blocks(readme, "python"):
        names = {
            node.attr
            for node in ast.walk(ast.parse(snippet))
            if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "distildet"
        }
        assert names <= set(distildet.__all__)


def test_public_names_equal_the_reviewed_list():
    assert sorted(distildet.__all__) == [
        "CallableDetector",
        "ClassList",
        "build_detector",
        "load_detector",
        "load_recipe",
        "run_recipe",
        "save_detector",
    ]
    assert all(hasattr(distildet, name) for name in distildet.__all__)


def test_every_link_of_the_readme_leads_to_a_file(project, readme):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link]

    assert [link for link in links if not (project / link).exists()] == []


def test_every_shipped_preset_makes_a_valid_recipe(tmp_path):
    for name in preset_names():
        path = tmp_path / "recipe.yaml"
        source = {"format": "coco", "images": "images", "annotations": "boxes.json"}
        recipe = {
            "name": "a",
            "preset": name,
            "data": {"image_size": "64", "labeled": source, "validation": dict(source)},
            "teachers": [{"detector": "teacher"}],
            "student": {"detector": "retinanet"},
        }
        path.write_text(yaml.safe_dump(recipe))

        assert load_recipe(path, check_named=False).stages


def test_every_benchmark_recipe_is_valid(project):
    recipes = sorted((project / "benchmarks" / "recipes").glob("*.yaml"))

    assert [load_recipe(path, check_named=False).name for path in recipes] == [
        path.stem for path in recipes
    ]

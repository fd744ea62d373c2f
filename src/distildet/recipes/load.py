"""Reads recipe files, in which every value stays a text until the schema types it; writes them."""

import importlib.resources
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distildet.data.yaml_file import parse_yaml, read_yaml
from distildet.errors import ConfigError, DataError, nearest_names
from distildet.recipes.checks import disagreements, missing_files, sections_of, sound_sections
from distildet.recipes.distill_terms import distill_faults
from distildet.recipes.faults import describe
from distildet.recipes.merging import apply_override, merge_preset, parse_override
from distildet.recipes.schema import Recipe, TrainStage
from distildet.recipes.student import student_faults
from distildet.recipes.values import FOLDER_KEY, read_none

_TEXT_TAG = "tag:yaml.org,2002:str"
_PLAIN_OPTION = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?|true|false")


def load_recipe(path: Path, overrides: Sequence[str] = (), *, check_named: bool = True) -> Recipe:
    """Read a recipe, fill in its preset and defaults, and check it.

    Args:
        path: YAML file. Relative paths in it, and in overrides, start at its folder.
        overrides: Such as `stages[1].epochs=3`; the value is YAML. They win over the file, and
            those of `stages` also over the stages of the preset.
        check_named: Also check what it names: files and folders, the family of the student and its
            options, the losses and theirs.

    Raises:
        ConfigError: The file cannot be read, or the recipe has faults; all of them are listed.
    """
    raw = _read_file(path)
    faults: list[str] = []
    early, late = _parsed_overrides(overrides, faults)
    _apply(raw, early, faults)
    preset_fault = _fill_in_preset(raw)
    if preset_fault is None:
        _apply(raw, late, faults)
    recipe, found = _validated(raw, path.absolute().parent, check_named=check_named)
    if preset_fault is not None:
        # Without its preset a recipe may well have no stages: that is no fault of its own.
        found = [preset_fault, *(f for f in found if not f.startswith("stages: missing"))]
    faults += found
    if faults or recipe is None:
        raise _faulty(path, faults)
    return recipe


def dump_recipe(recipe: Recipe) -> str:
    """Return a recipe as YAML with every default filled in; it loads again to an equal recipe."""
    content = recipe.model_dump(mode="json", exclude_none=True)
    content["student"] |= _option_texts(recipe.student.options)
    for stage, written in zip(recipe.stages, content["stages"], strict=True):
        for place, entry in enumerate(stage.distill if isinstance(stage, TrainStage) else ()):
            written["distill"][place] |= _option_texts(entry.options)
    return yaml.dump(
        content,
        Dumper=_RecipeDumper,
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that are shipped, sorted."""
    folder = importlib.resources.files("distildet.recipes") / "presets"
    names = (Path(entry.name) for entry in folder.iterdir())
    return tuple(sorted(name.stem for name in names if name.suffix == ".yaml"))


def _faulty(where: object, faults: Sequence[str]) -> ConfigError:
    if len(faults) == 1:
        return ConfigError(f"{where}: {faults[0]}")
    listed = "".join(f"\n  {fault}" for fault in faults)
    return ConfigError(f"{where}: {len(faults)} faults:{listed}")


def _validated(
    raw: dict[str, Any], folder: Path, *, check_named: bool
) -> tuple[Recipe | None, list[str]]:
    context = {FOLDER_KEY: folder}
    recipe, faults = None, []
    try:
        recipe = Recipe.model_validate(raw, context=context)
        sections = sections_of(recipe)
    except ValidationError as error:
        faults = describe(error, raw, model=Recipe)
        sections = sound_sections(raw, context)
    faults += disagreements(sections)
    if check_named:
        faults += missing_files(sections)
        if sections.student is not None:
            faults += student_faults(sections.student)
        faults += distill_faults(sections.stages or ())
    return recipe, faults


def _read_file(path: Path) -> dict[str, Any]:
    with _told_of_the_recipe():
        raw = read_yaml(path)
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: this is no recipe. Accepted: a mapping with keys like `data`.")
    return raw


def _parse(text: str, source: str) -> Any:
    with _told_of_the_recipe():
        return parse_yaml(text, source)


@contextmanager
def _told_of_the_recipe() -> Iterator[None]:
    """Turn a fault of a YAML text into one of the recipe."""
    try:
        yield
    except DataError as error:
        raise ConfigError(str(error)) from error


def _parsed_overrides(
    overrides: Sequence[str], faults: list[str]
) -> tuple[list[tuple[list[str | int], Any]], ...]:
    """Return the overrides that come before the preset, and those of the stages after it."""
    early: list[tuple[list[str | int], Any]] = []
    late: list[tuple[list[str | int], Any]] = []
    for text in overrides:
        try:
            steps, value = parse_override(text)
            parsed = (steps, _parse(value, f"--set {text.partition('=')[0]}"))
        except ConfigError as error:
            faults.append(str(error))
            continue
        (late if steps[0] == "stages" else early).append(parsed)
    return early, late


def _apply(
    raw: dict[str, Any], overrides: Sequence[tuple[list[str | int], Any]], faults: list[str]
) -> None:
    for steps, value in overrides:
        try:
            apply_override(raw, steps, value)
        except ConfigError as error:
            faults.append(str(error))


def _fill_in_preset(raw: dict[str, Any]) -> str | None:
    """Merge the preset of a recipe under what the recipe gives; return the fault, if any."""
    name = read_none(raw.get("preset"))
    if name is None:
        return None
    if name not in preset_names():
        nearest = nearest_names(name if isinstance(name, str) else "", preset_names())
        return f"preset: found {name!r}. {nearest}"
    file = importlib.resources.files("distildet.recipes") / "presets" / f"{name}.yaml"
    preset = _parse(file.read_text("utf-8"), file.name)
    try:
        merge_preset(raw, preset)
    except ConfigError as error:
        return str(error)
    return None


class _OptionText(str):
    """Text of an option of student or loss; a number or boolean is written without quotes."""

    __slots__ = ()


class _RecipeDumper(yaml.SafeDumper):
    """Writes recipes."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Write a value out each time it occurs."""
        return True


def _write_text(dumper: Any, text: str) -> yaml.ScalarNode:
    # PyYAML folds unusual line breaks, such as U+0085, in all but double quotes.
    style = None if text.isprintable() else '"'
    node: yaml.ScalarNode = dumper.represent_scalar(_TEXT_TAG, text, style=style)
    return node


def _write_option(dumper: Any, text: _OptionText) -> yaml.ScalarNode:
    bare = str(text)
    if not _PLAIN_OPTION.fullmatch(bare):
        return _write_text(dumper, bare)
    # Under the tag that YAML readers see in the bare text, it is written without quotes.
    tag = dumper.resolve(yaml.ScalarNode, bare, (True, False))
    node: yaml.ScalarNode = dumper.represent_scalar(tag, bare)
    return node


_RecipeDumper.add_representer(str, _write_text)
_RecipeDumper.add_representer(_OptionText, _write_option)


def _option_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _option_texts(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_option_texts(inner) for inner in value]
    return _OptionText(value) if isinstance(value, str) else value

"""`distildet list`: what exists."""

import json
from typing import TYPE_CHECKING, Any

from distildet.cli.console import print_line
from distildet.cli.options import JsonOption

if TYPE_CHECKING:
    from distildet.registry import Registry


def list_names(*, as_json: JsonOption = False) -> None:
    """List detector families and distillation losses with their options, and presets.

    Example: distildet list
    """
    import distildet.detectors.bundle  # noqa: F401 - registers every family
    from distildet.detectors.base import DETECTORS
    from distildet.losses.base import LOSSES
    from distildet.recipes.load import preset_names
    from distildet.recipes.schema import StudentConfig

    detectors, losses = _options(DETECTORS), _options(LOSSES)
    for options in detectors.values():
        # What a recipe takes where the key is left out.
        options["pretrained"] = repr(StudentConfig.model_fields["pretrained"].default)
    presets = list(preset_names())
    if as_json:
        listed = {"detectors": detectors, "losses": losses, "presets": presets}
        print_line(json.dumps(listed, indent=1))
        return
    _print_options("Detector families and their options:", detectors)
    _print_options("Distillation losses and their options:", losses)
    print_line("Presets:")
    for name in presets:
        print_line(f"  {name}")


def _options(registry: "Registry[Any]") -> dict[str, dict[str, str]]:
    """Return name -> option -> default, as it reads in Python."""
    import inspect

    return {
        name: {
            option: "needed" if default is inspect.Parameter.empty else repr(default)
            for option, default in registry.options(name).items()
        }
        for name in registry.names()
    }


def _print_options(title: str, listed: dict[str, dict[str, str]]) -> None:
    print_line(title)
    for name, options in listed.items():
        print_line(f"  {name}")
        for option, default in options.items():
            print_line(f"    {option} = {default}")

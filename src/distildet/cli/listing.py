"""`distildet list`: what exists."""

import json

from distildet.cli.console import print_line
from distildet.cli.options import JsonOption


def list_names(*, as_json: JsonOption = False) -> None:
    """List detector families with their options, and presets.

    Example: distildet list
    """
    import inspect

    import distildet.detectors.bundle  # noqa: F401 - registers every family
    from distildet.detectors.base import DETECTORS
    from distildet.recipes.load import preset_names

    detectors = {
        name: {
            option: "needed" if default is inspect.Parameter.empty else repr(default)
            for option, default in DETECTORS.options(name).items()
        }
        for name in DETECTORS.names()
    }
    presets = list(preset_names())
    if as_json:
        print_line(json.dumps({"detectors": detectors, "presets": presets}, indent=1))
        return
    print_line("Detector families and their options:")
    for name, options in detectors.items():
        print_line(f"  {name}")
        for option, default in options.items():
            print_line(f"    {option} = {default}")
    print_line("Presets:")
    for name in presets:
        print_line(f"  {name}")

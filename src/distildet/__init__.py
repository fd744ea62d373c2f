"""distildet turns any object detector into a small one that is as good as it can be."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distildet.classes import ClassList
    from distildet.detectors.bundle import build_detector, load_detector, save_detector
    from distildet.detectors.callable_detector import CallableDetector
    from distildet.recipes.load import load_recipe
    from distildet.recipes.runner import run_recipe

__all__ = [
    "CallableDetector",
    "ClassList",
    "build_detector",
    "load_detector",
    "load_recipe",
    "run_recipe",
    "save_detector",
]

_MODULE_BY_NAME = {
    "CallableDetector": "distildet.detectors.callable_detector",
    "ClassList": "distildet.classes",
    "build_detector": "distildet.detectors.bundle",
    "load_detector": "distildet.detectors.bundle",
    "load_recipe": "distildet.recipes.load",
    "run_recipe": "distildet.recipes.runner",
    "save_detector": "distildet.detectors.bundle",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: torch alone takes seconds."""
    if name not in _MODULE_BY_NAME:
        raise AttributeError(f"module 'distildet' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_BY_NAME[name]), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)

"""What all stages of a run share."""

from dataclasses import dataclass
from pathlib import Path

import torch

from distildet.classes import ClassList
from distildet.detectors.base import Detector
from distildet.detectors.bundle import bundle_fingerprint, load_detector
from distildet.recipes.progress import Progress
from distildet.recipes.run_data import RunData
from distildet.recipes.schema import Recipe
from distildet.training.interruption import Interruption


class Teacher:
    """A teacher bundle that is loaded when it is first needed.

    Args:
        path: The bundle.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fingerprint = bundle_fingerprint(path)
        self._detector: Detector | None = None

    @property
    def detector(self) -> Detector:
        """The loaded detector."""
        if self._detector is None:
            self._detector = load_detector(self.path)
        return self._detector


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run while it works.

    Args:
        recipe: Resolved and checked.
        data: All datasets.
        classes: Of the student.
        teachers: In the recipe's order.
        out: The run folder.
        device: Where to compute.
        interruption: Whether somebody asked to stop.
        progress: Told everything that a user may want to see.
    """

    recipe: Recipe
    data: RunData
    classes: ClassList
    out: Path
    device: torch.device
    interruption: Interruption
    progress: Progress
    teachers: tuple[Teacher, ...] = ()

    def work(self, place: Path) -> str:
        """Return the name by which progress of what is written to a place is told."""
        return place.relative_to(self.out).as_posix()

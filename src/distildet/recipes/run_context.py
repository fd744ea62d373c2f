"""What all stages of a run share."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch

from distildet.classes import ClassList, ClassMap, map_classes, map_labels
from distildet.data.pixel_cache import PixelCache
from distildet.detectors.base import Detector
from distildet.detectors.black_box import BlackBoxDetector
from distildet.detectors.bundle import bundle_fingerprint, detector_fingerprint, load_detector
from distildet.ops.precision import Precision
from distildet.recipes.kept_images import longest_kept
from distildet.recipes.progress import Progress
from distildet.recipes.run_data import RunData
from distildet.recipes.schema import Recipe
from distildet.specs import DetectorSpec
from distildet.training.interruption import Interruption


class Teacher:
    """A teacher; one that is given by a path is loaded when it is first needed.

    Args:
        source: The bundle, or a .pth file of a stock torchvision detector; or a detector, such as a
            `CallableDetector`.
        classes: Names of the columns of a .pth file, where they are needed.
        image_size: Of a .pth file, where another than the usual is wanted.
        class_map: Teacher's class -> student's class, or `distildet.classes.DROP`.
        unknown_classes: Student's classes that it does not have.

    Raises:
        ConfigError: An option is given that the file does not take.
        WeightsError: There is no such bundle or file.
    """

    def __init__(
        self,
        source: Path | Detector,
        *,
        classes: Sequence[str] | None = None,
        image_size: int | None = None,
        class_map: Mapping[str, str] | None = None,
        unknown_classes: Sequence[str] = (),
    ) -> None:
        self._class_map = class_map
        self._unknown_classes = unknown_classes
        if isinstance(source, Detector):
            self.name, self.fingerprint = _facts(source)
            self._load: Callable[[], Detector] = lambda: source
        else:
            self.name = str(source)
            self.fingerprint = bundle_fingerprint(source, classes=classes, image_size=image_size)
            self._load = partial(load_detector, source, classes=classes, image_size=image_size)
        self._detector: Detector | None = None
        self.known_elsewhere: frozenset[str] = frozenset()
        """Student's classes that other teachers have; see `share_classes`."""

    @property
    def detector(self) -> Detector:
        """The loaded detector."""
        if self._detector is None:
            self._detector = self._load()
        return self._detector

    @property
    def is_mapped(self) -> bool:
        """Whether it was told how its classes stand to others."""
        return bool(self._class_map or self._unknown_classes)

    def unmapped(self) -> "Teacher":
        """Return the same teacher without what it was told of other classes."""
        same = copy.copy(self)
        same._class_map, same._unknown_classes = None, ()
        return same

    def loaded(self) -> "Teacher":
        """Return itself after loading the detector.

        Raises:
            DistildetError: As `load_detector`.
        """
        self._detector = self.detector
        return self

    def map_to(self, classes: ClassList) -> ClassMap:
        """Return how its classes stand for those of the student.

        Raises:
            ClassMapError: A class of the student has no counterpart, or a name does not exist.
        """
        return map_classes(
            self.detector.spec.classes,
            classes,
            given=self._class_map,
            unknown=self._unknown_classes,
            elsewhere=self.known_elsewhere,
        )

    @property
    def classes_and_map(self) -> tuple[ClassList, Mapping[str, str]]:
        """Its classes, and what the recipe says that they stand for."""
        return self.detector.spec.classes, self._class_map or {}

    def spec_for(self, classes: ClassList) -> DetectorSpec:
        """Return its facts for a loss, with its classes named as those of the student.

        Raises:
            ClassMapError: As `map_to`.
        """
        names = self.map_to(classes).named_as_target()
        return replace(self.detector.spec, classes=names)


def _facts(detector: Detector) -> tuple[str, str]:
    """Return name and fingerprint of a detector."""
    if isinstance(detector, BlackBoxDetector):
        return detector.name, detector.fingerprint
    return detector.spec.family, detector_fingerprint(detector)


def share_classes(teachers: Sequence[Teacher | None], classes: ClassList) -> None:
    """Tell each teacher which of the student's classes others have, so that it may lack them.

    Args:
        teachers: All of them; one that could not be loaded may have any class.
        classes: Of the student.
    """
    known = [
        set(classes) if teacher is None else _known(*teacher.classes_and_map, classes)
        for teacher in teachers
    ]
    for place, teacher in enumerate(teachers):
        if teacher is not None:
            others = known[:place] + known[place + 1 :]
            teacher.known_elsewhere = frozenset[str]().union(*others)


def _known(own: ClassList, given: Mapping[str, str], classes: ClassList) -> set[str]:
    return {classes[label] for label in map_labels(own, classes, given) if label is not None}


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """A run while it works.

    Args:
        recipe: Resolved and checked.
        data: All datasets.
        classes: Of the student.
        teachers: In the recipe's order.
        precision: What teachers and students compute in, but for evaluation.
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
    precision: Precision = "fp32"

    @cached_property
    def pixel_cache(self) -> PixelCache | None:
        """Where all stages of the run keep decoded images; None where the recipe keeps none."""
        if self.recipe.data.cache == "none":
            return None
        return PixelCache(longest=longest_kept(self.recipe))

    @cached_property
    def unmeasured(self) -> Mapping[int, str]:
        """Place in `teachers` -> why that one cannot be measured on the validation images."""
        validation = self.data.validation
        samples = () if validation is None else validation.samples
        lacking = [teacher.detector.unanswered(samples) for teacher in self.teachers]
        return {
            place: f"teachers[{place}]: {self.teachers[place].name} does not list {len(ids)} of "
            f"{len(samples)} validation images at their size, such as {ids[0]!r}"
            for place, ids in enumerate(lacking)
            if ids
        }

    def work(self, place: Path) -> str:
        """Return the name by which progress of what is written to a place is told."""
        return place.relative_to(self.out).as_posix()

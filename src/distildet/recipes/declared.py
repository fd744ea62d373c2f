"""From an entry of `teachers`, in a recipe or a file of its own, to a teacher."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from distildet.classes import ClassList
from distildet.data.class_names import read_class_names
from distildet.data.yaml_file import read_yaml
from distildet.detectors.base import Detector
from distildet.detectors.black_box import BlackBoxDetector
from distildet.detectors.bundle import load_detector
from distildet.detectors.onnx_runtime import OnnxDetector
from distildet.detectors.results_file import ResultsDetector
from distildet.detectors.stock_classes import coco_columns
from distildet.errors import ConfigError, DataError
from distildet.recipes.faults import describe
from distildet.recipes.labelers import Labeler
from distildet.recipes.run_context import Teacher
from distildet.recipes.teacher_schema import (
    COCO,
    AnyTeacherConfig,
    BundleTeacherConfig,
    OnnxTeacherConfig,
    TeacherEntry,
    declared_output,
    type_of_entry,
)
from distildet.recipes.values import FOLDER_KEY

YAML_SUFFIXES = (".yaml", ".yml")
"""Of the files that declare a teacher."""


def teacher_of(config: AnyTeacherConfig) -> Teacher:
    """Return the teacher of an entry; a detector of ours is loaded when it is first needed.

    Args:
        config: The entry.

    Raises:
        DistildetError: What it names cannot be used.
    """
    standing: dict[str, Any] = {
        "class_map": config.class_map,
        "unknown_classes": config.unknown_classes,
    }
    if isinstance(config, BundleTeacherConfig):
        return Teacher(
            config.detector, classes=config.classes, image_size=config.image_size, **standing
        )
    if isinstance(config, OnnxTeacherConfig):
        return Teacher(_onnx_detector(config), **standing)
    return Teacher(ResultsDetector(config.file, images=config.images), **standing)


def open_teacher(path: Path) -> Teacher:
    """Return the teacher of a bundle, of a .pth file, or of a YAML file that declares one.

    Args:
        path: A YAML file has the keys of an entry of `teachers`; paths in it start at its folder.

    Raises:
        ConfigError: The YAML file cannot be read, or has faults; all of them are listed.
        DistildetError: What it names cannot be used.
    """
    if not _declares(path):
        return Teacher(path)
    return teacher_of(read_entry(path))


def open_labeler(path: Path, key: str) -> Labeler:
    """Return one that labels by the path of its bundle, .pth file, or YAML file.

    Args:
        path: As for `open_teacher`; it is its name in messages.
        key: Name of its folder.

    Raises:
        DistildetError: As `open_teacher`.
    """
    if not _declares(path):
        return Labeler(name=str(path), key=key, teacher=Teacher(path))
    entry = read_entry(path)
    return Labeler(name=str(path), key=key, teacher=teacher_of(entry), trust=entry.trust)


def open_detector(path: Path) -> Detector:
    """Return the detector of a bundle, of a .pth file, or of a YAML file that declares one.

    Raises:
        DistildetError: As `open_teacher` and `load_detector`.
    """
    if not _declares(path):
        return load_detector(path)
    return open_teacher(path).detector


def read_entry(path: Path) -> AnyTeacherConfig:
    """Read a YAML file that declares a teacher.

    Args:
        path: With the keys of an entry of `teachers`; paths in it start at its folder.

    Raises:
        ConfigError: It cannot be read, declares nothing, or has faults; all of them are listed.
    """
    try:
        raw = read_yaml(path)
    except DataError as error:
        raise ConfigError(str(error)) from error
    adapter: TypeAdapter[Any] = TypeAdapter(TeacherEntry)
    if not isinstance(raw, dict) or "detector" not in raw:
        raise ConfigError(
            f"{path}: this declares no detector. Accepted: a mapping with the keys of an entry of "
            "`teachers` in a recipe, such as detector: onnx; see docs/black-box-teachers.md."
        )
    try:
        entry: AnyTeacherConfig = adapter.validate_python(
            raw, context={FOLDER_KEY: path.absolute().parent}
        )
    except ValidationError as error:
        faults = describe(error, raw, model=type_of_entry(raw))
        listed = faults[0] if len(faults) == 1 else "".join(f"\n  {fault}" for fault in faults)
        head = "" if len(faults) == 1 else f"{len(faults)} faults:"
        raise ConfigError(f"{path}: {head}{listed}") from error
    return entry


def _declares(path: Path) -> bool:
    """Tell whether a path is of a YAML file, and not of a detector of ours."""
    return path.suffix.lower() in YAML_SUFFIXES and not path.is_dir()


def _onnx_detector(config: OnnxTeacherConfig) -> BlackBoxDetector:
    return OnnxDetector(
        config.weights,
        classes=_classes(config),
        image_size=config.image_size,
        input=config.input.declared(),
        output=declared_output(config.output),
    )


def _classes(config: OnnxTeacherConfig) -> ClassList:
    if config.classes == COCO:
        return ClassList(tuple(coco_columns().values()))
    if isinstance(config.classes, Path):
        return read_class_names(config.classes)
    return ClassList(tuple(config.classes))

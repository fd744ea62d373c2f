"""The folder of a run: who works in it, and whether it belongs to this recipe."""

import fcntl
import json
import os
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from distildet import artefacts
from distildet.errors import ConfigError, DataError, GateError, StageError
from distildet.ops.precision import Precision
from distildet.recipes.schema import LabelStage, Recipe, TrainStage

LOCK = ".lock"
RESULT = "result.json"
RECIPE = "recipe.yaml"
SETTINGS = "settings.json"
DATA = "files.json"
WEIGHTS = "weights.json"
DONE = "DONE"
STUDENT = "student"
BASELINE = "baseline"
TEACHER = "teacher"
DETECTIONS = "detections.json"
STORE = "store"
# Settings that may differ when a run is continued: they do not change what a seed computes. Those
# of label stages decide whether bad images end the run, not what is made of the others.
CONTINUABLE = re.compile(r"seeds|data\.workers|stages\[\d+\]\.(on_bad_image|max_bad_fraction)")
SHOWN_DIFFERENCES = 5


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process; the lock dies with the process.

    Folders that were made for it are removed again if nothing was written to them.

    Raises:
        ConfigError: The folder cannot be written.
        StageError: Another process works in it.
    """
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be used as a run folder ({error.strerror}). "
            "Choose a folder that can be written with --out."
        ) from error
    with file:
        try:
            # POSIX locks belong to the process: loader workers that outlive a kill do not hold it.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise StageError(
                f"{folder}: in use by {file.read().strip() or 'another process'}. "
                "Wait for it, stop it, or choose another --out."
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        try:
            yield
        finally:
            if made and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink()
                _remove_empty(made)


def _remove_empty(folders: Sequence[Path]) -> None:
    with suppress(OSError):  # one that is not empty any more ends it
        for folder in folders:
            folder.rmdir()


@contextmanager
def keeping_to_its_images(folder: Path) -> Iterator[None]:
    """Say of an image that cannot be used what becomes of a run that has noted its images.

    Raises:
        DataError: As inside the block, with what to do.
        GateError: Likewise.
    """
    try:
        yield
    except (DataError, GateError) as error:
        raise type(error)(
            f"{error} A run keeps to the images that it was begun with: once any is mended or "
            f"removed, delete {folder} or choose another --out, and run again."
        ) from error


def refuse_foreign(folder: Path, begun_with: str = SETTINGS) -> None:
    """Make sure that a folder in which no run was begun has nothing that one could overwrite.

    Args:
        folder: Where the run shall be.
        begun_with: Name of what is there once it was begun.

    Raises:
        ConfigError: Somebody else's files are in it.
    """
    if not folder.is_dir() or (folder / begun_with).exists():
        return
    own = (LOCK, artefacts.TEMPORARY_PREFIX)
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith(own))
    if others:
        raise ConfigError(
            f"{folder}: cannot be written to, since it is not empty (it has {others[0]!r}) and "
            "nothing of distildet was begun in it. Choose a new folder with --out."
        )


def check_same(
    path: Path,
    current: Mapping[str, Any],
    what: str,
    compare: Callable[[Any, Any], list[str]] | None = None,
) -> None:
    """Compare what a run folder was begun with to what is asked now.

    Args:
        path: JSON file in the run folder; if it does not exist, all is well.
        current: What is asked now.
        what: Name of it in the message.
        compare: Returns one line for each difference; None compares value by value.

    Raises:
        StageError: They differ, or the file is damaged; the message lists the first differences.
    """
    if not path.exists():
        return
    differences = (compare or _differences)(read_json(path), json.loads(json.dumps(current)))
    if differences:
        more = len(differences) - SHOWN_DIFFERENCES
        shown = [*differences[:SHOWN_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
        raise StageError(
            f"{path.parent}: this run was begun with other {what}: {'; '.join(shown)}. "
            "Put it back as it was, choose another --out, or delete the folder."
        )


def settings_of(recipe: Recipe, precision: Precision) -> dict[str, Any]:
    """Return all settings of a run as JSON values."""
    return {**recipe.model_dump(mode="json"), "precision": precision}


def changed_settings(before: Any, now: Any) -> list[str]:
    """Return one line for each setting that differs and may not.

    Args:
        before: As a run noted them. A setting that it lacks, since there was no such choice yet,
            had the value that is the default today.
        now: As `settings_of` returns them.
    """
    sections = {key: value for key, value in before.items() if key != "precision"}
    # What today's schema refuses is no recipe of today, and is compared as it was noted.
    with suppress(ValidationError):
        sections = Recipe.model_validate(sections).model_dump(mode="json")
    return _differences({"precision": before.get("precision", "fp32"), **sections}, now)


def read_json(path: Path) -> Any:
    """Read a file that a run has written.

    Raises:
        StageError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(
            f"{path}: damaged ({error}). Restore it from a copy, or delete {path.parent} and run "
            "again."
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of a killed process from the places that a run writes to."""
    for place in (folder, *folder.glob(f"{TEACHER}/**/"), *folder.glob("seed-*/**/")):
        artefacts.remove_partial(place)


def _differences(before: Any, now: Any, path: str = "") -> list[str]:
    if CONTINUABLE.fullmatch(path) or before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(before.keys() | now.keys())
        return [
            line
            for key in keys
            for line in _differences(
                before.get(key), now.get(key), f"{path}.{key}" if path else str(key)
            )
        ]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [
            line
            for i, (a, b) in enumerate(zip(before, now, strict=True))
            for line in _differences(a, b, f"{path}[{i}]")
        ]
    return [f"{path} was {before!r} and is {now!r}"]


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a reader needs to judge timings and to repeat the run."""
    packages = (
        "distildet",
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "pillow",
        "hotcoco",
        "pyarrow",
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {package: version(package) for package in packages},
        "device": device.type,
        "device_name": name or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def is_done(folder: Path) -> bool:
    """Return whether a stage has finished."""
    return (folder / DONE).exists()


def read_done(folder: Path) -> dict[str, Any]:
    """Return what a finished stage noted about itself."""
    noted: dict[str, Any] = read_json(folder / DONE)
    return noted


def write_done(folder: Path, noted: Mapping[str, Any]) -> None:
    """Mark a stage as finished; nothing of it is written after this."""
    artefacts.write_json(folder / DONE, noted)


def teacher_folders(out: Path, count: int) -> list[Path]:
    """Return the folder of what is measured of each teacher.

    Args:
        out: The run folder.
        count: Of teachers; one has `teacher/`, several have `teacher/0/` and so on.
    """
    folder = out / TEACHER
    return [folder] if count == 1 else [folder / str(place) for place in range(count)]


def arm_folder(out: Path, seed: int, arm: str) -> Path:
    """Return the folder with the stages of an arm ("student" or "baseline") of a seed."""
    folder = out / f"seed-{seed}"
    return folder / BASELINE if arm == BASELINE else folder


def stage_folder(arm: Path, index: int, stage: LabelStage | TrainStage) -> Path:
    """Return the folder of a stage, such as `02-train`, by its place from 0."""
    return arm / f"{index + 1:02d}-{stage.stage}"


def train_folders(arm: Path, stages: Sequence[LabelStage | TrainStage]) -> list[Path]:
    """Return the folders of the train stages, in order."""
    return [
        stage_folder(arm, index, stage)
        for index, stage in enumerate(stages)
        if isinstance(stage, TrainStage)
    ]


def last_train_folder(arm: Path, stages: Sequence[LabelStage | TrainStage]) -> Path:
    """Return the folder of the stage whose student is the arm's result."""
    return train_folders(arm, stages)[-1]

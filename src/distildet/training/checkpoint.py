"""Checkpoints: folders whose manifest, written last, has the hash of every file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from distildet import artefacts
from distildet.errors import ResourceError, StageError

CHECKPOINT_FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Everything that training needs to go on.

    Args:
        step: Number of finished steps.
        tensors: Group name ("model", "ema", "optimizer") -> tensor name -> tensor.
        state: JSON values: counters, best metric, settings.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint atomically and return its folder.

    Args:
        folder: Where the checkpoints of a stage are.
        name: Name of the new one, such as "step-000200" or "best".
        checkpoint: What to keep.

    Raises:
        ResourceError: The disk is full; older checkpoints are intact.
    """
    path = folder / name
    with artefacts.new_folder(path) as temporary:
        files: dict[str, bytes] = {
            f"{group}.safetensors": save(
                {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            )
            for group, tensors in checkpoint.tensors.items()
        }
        state = {"step": checkpoint.step, **checkpoint.state}
        files[STATE] = json.dumps(state, indent=1, allow_nan=False).encode()
        for file, content in files.items():
            (temporary / file).write_bytes(content)
        manifest = {
            "format": CHECKPOINT_FORMAT,
            "sha256": {
                file: artefacts.fingerprint_bytes(content) for file, content in files.items()
            },
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return path


def step_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoint folders of a stage, whole or not, in the order of their steps."""
    paths = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(paths, key=lambda path: int(path.name.removeprefix("step-")))


def verify_checkpoint(path: Path) -> str | None:
    """Return what is wrong with a checkpoint folder, or None if every file has its hash.

    Raises:
        StageError: A newer version of distildet wrote it.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        version, expected = int(manifest["format"]), dict(manifest["sha256"])
        if version > CHECKPOINT_FORMAT:
            raise StageError(
                f"{path}: checkpoint format {version} is newer than this version of distildet "
                f"knows ({CHECKPOINT_FORMAT}). Update distildet."
            )
        for file, fingerprint in expected.items():
            if artefacts.fingerprint_file(path / file) != fingerprint:
                return f"{file} does not have the hash that its manifest states"
    except OSError as error:
        return f"{Path(error.filename or path).name} cannot be read"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is damaged"
    return None if STATE in expected else f"{MANIFEST} does not list {STATE}"


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint that `verify_checkpoint` found whole."""
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    listed = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
    tensors = {
        Path(file).stem: load_file(path / file) for file in listed if file.endswith(".safetensors")
    }
    return Checkpoint(step=state.pop("step"), tensors=tensors, state=state)


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Load the newest checkpoint of a stage that verifies.

    Args:
        folder: Where the checkpoints of a stage are; leftovers of interrupted writes are deleted.

    Returns:
        The checkpoint, or None where there is none yet; and one line for each damaged one.

    Raises:
        ResourceError: There are checkpoints and all of them are damaged.
        StageError: A newer version of distildet wrote them.
    """
    artefacts.remove_partial(folder)
    skipped: list[str] = []
    for path in reversed(step_checkpoints(folder)):
        fault = verify_checkpoint(path)
        if fault is None:
            return load_checkpoint(path), skipped
        skipped.append(f"{path}: skipped, {fault}")
    if skipped:
        raise ResourceError(
            "No checkpoint of this stage is whole:\n" + "\n".join(skipped) + "\nRestore one from "
            f"a copy, or delete {folder.parent} to train this stage again."
        )
    return None, skipped


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimiser as named tensors, by index of the parameter."""
    return {
        f"{index}.{name}": value
        for index, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put named tensors back into an optimiser.

    Each tensor gets the memory layout and the device of its parameter, as without the interruption:
    kernels on mixed layouts are slower, and nothing promises that they round alike. Fused
    optimisers have their count of steps on the device too.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        optimizer.state[parameter][name] = (
            tensor.to(parameter.device)
            if name == "step"
            else torch.empty_like(parameter).copy_(tensor)
        )

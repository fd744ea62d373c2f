"""Files of weights, read without running any code from them."""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from timm.models import clean_state_dict
from torch import Tensor

from distildet.errors import WeightsError

# Where training scripts put the weights in a checkpoint, the moving average first.
_KEYS_OF_CHECKPOINTS = ("state_dict_ema", "model_ema", "state_dict", "model")
_UNSUPPORTED_GLOBAL = re.compile(r"(?i:unsupported)(?: global:)? GLOBAL (\S+)")

_ARCHIVE = b"PK\x03\x04"
# Of the older format of torch, and of safetensors.
_EARLY_END = re.compile("unexpected EOF|not fully covered")
_CUT_OFF = "it ends too early and may be cut off: copy or download it again"


@dataclass(frozen=True, kw_only=True)
class StoredWeights:
    """The tensors of a file.

    Args:
        tensors: By name.
        is_checkpoint: Whether they lay in a training checkpoint, beside other things.
    """

    tensors: dict[str, Tensor]
    is_checkpoint: bool


def read_weights(path: Path) -> StoredWeights:
    """Read a .safetensors file, or a state dict or checkpoint that `torch.save` wrote.

    Raises:
        WeightsError: There is no such file, it contains code, or it holds no tensors by name.
    """
    if not path.is_file():
        raise no_such_file(path)
    content = _read(path)
    keys = [key for key in _KEYS_OF_CHECKPOINTS if isinstance(content, Mapping) and key in content]
    state = content[keys[0]] if keys else content
    if not isinstance(state, Mapping) or not state:
        raise _not_weights(path, f"it holds {type(state).__name__} of no use")
    for name, value in state.items():
        if not isinstance(name, str):
            raise _not_weights(path, f"its entry {name!r:.80} has no text as name")
        if not isinstance(value, Tensor):
            raise _not_weights(path, f"its entry {name!r} is of type {type(value).__name__}")
    return StoredWeights(tensors=clean_state_dict(dict(state)), is_checkpoint=bool(keys))


def refuse_not_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Make sure that all values are finite.

    Args:
        path: Of the file, for the message.
        tensors: Those of the file that are used.

    Raises:
        WeightsError: Some are not.
    """
    broken = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{path}: {len(broken)} tensors have values that are not finite (such as "
            f"{broken[:3]}). Take weights from before the training diverged."
        )


def no_such_file(path: Path) -> WeightsError:
    """Return the error for a file of weights that is not there."""
    return WeightsError(f"{path}: no such file of weights. Give the path of an existing file.")


def _read(path: Path) -> Any:
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        # The training scripts of torchvision and timm put their arguments into checkpoints.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Of files that torch did not write; what they hold decides.
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        code = _UNSUPPORTED_GLOBAL.search(str(error))
        if code is None:
            raise _not_weights(path, "torch.save did not write it") from error
        raise WeightsError(
            f"{path}: contains code ({code[1]}), which is never run. Where the model was trained, "
            "save only model.state_dict() and give that file."
        ) from error
    except Exception as error:
        # Of damaged bytes torch makes whatever they happen to say, also failed assertions.
        reason = str(error).partition("\n")[0] or f"it is damaged: {type(error).__name__}"
        is_early_end = isinstance(error, EOFError | struct.error) or _EARLY_END.search(reason)
        if is_early_end or _is_cut_archive(path):
            reason = _CUT_OFF
        raise _not_weights(path, reason) from error


def _is_cut_archive(path: Path) -> bool:
    """Tell whether a file begins like what `torch.save` writes and lacks the end of it."""
    try:
        with path.open("rb") as file:
            begins = file.read(len(_ARCHIVE)) == _ARCHIVE
        return begins and not zipfile.is_zipfile(path)
    except (OSError, zipfile.BadZipFile):  # the latter: it has an end, which is damaged
        return False


def _not_weights(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"{path}: not a file of weights ({reason}). Accepted: .safetensors, and files that "
        "torch.save(model.state_dict(), ...) wrote."
    )

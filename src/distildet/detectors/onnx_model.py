"""A model file opened with ONNX Runtime: names, shapes and types of what goes in and out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from distildet import artefacts
from distildet.data.names import require_regular_file
from distildet.data.unfetched import LONGEST_START_BYTES, describe_unfetched
from distildet.errors import MissingExtraError, WeightsError

Arrays = Mapping[str, NDArray[Any]]

_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
# Errors are told by us; the runtime would print them besides.
_LOG_FATAL_ALONE = 4


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output of a model.

    Args:
        shape: None for an axis that may have any length.
        dtype: As numpy calls it, or as the model does where it is none of images.
    """

    shape: tuple[int | None, ...]
    dtype: str


class OnnxModel:
    """A model that runs on the CPU, on as many threads as torch, with equal results each time.

    Args:
        path: The file.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
        WeightsError: There is no such file, it is no ONNX model, or one that cannot be run here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        runtime = _runtime(path)
        _refuse_unfetched(path)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.use_deterministic_compute = True
        options.log_severity_level = _LOG_FATAL_ALONE
        # Threads that wait in a loop would take the cores from the processes that load images.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime has an error of its own for every fault
            raise WeightsError(
                f"{path}: ONNX Runtime {runtime.__version__} cannot open it ({_reason(error)}). "
                "The file may be cut off or damaged: copy or export it again. A model of a newer "
                "format needs a newer onnxruntime; one with a file of weights needs it beside "
                "itself."
            ) from error
        self.inputs = {port.name: _port(port) for port in self._session.get_inputs()}
        self.outputs = {port.name: _port(port) for port in self._session.get_outputs()}

    def run(self, feeds: Arrays, wanted: Sequence[str]) -> list[NDArray[Any]]:
        """Return the wanted outputs.

        Args:
            feeds: Every input by name.
            wanted: Names of outputs.

        Raises:
            MemoryError: The memory is too small.
            WeightsError: The model fails on these images.
        """
        try:
            found: list[NDArray[Any]] = self._session.run(list(wanted), dict(feeds))
        except Exception as error:
            if "Failed to allocate memory" in str(error) or "bad_alloc" in str(error):
                raise MemoryError(str(error)) from error
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise WeightsError(
                f"{self.path}: the model fails on {shapes} ({_reason(error)}). Compare image_size "
                "and `input` with the export; set input.one_at_a_time: true for a model that takes "
                "single images alone."
            ) from error
        return found


def onnx_fingerprint(path: Path) -> list[str]:
    """Return the hashes of a model file and of the files of weights that it names.

    Args:
        path: The model file, which can be run.

    Raises:
        MissingExtraError: The package onnx is not installed.
        WeightsError: It is of another format, or names a file outside its folder.
    """
    try:
        # Here, since they come with an extra.
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError as error:
        raise MissingExtraError("onnx", extra="onnx", purpose=f"{path}: an ONNX model") from error
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise WeightsError(
            f"{path}: a model of another format than ONNX, such as one optimised for a device. "
            "Give the .onnx file that it was made from."
        ) from error
    names = sorted(set(_files_of_weights(model)))
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise WeightsError(
            f"{path}: the model has weights in {outside[0]!r}, outside its folder. Save it again "
            "with its weights in itself or beside itself."
        )
    return [artefacts.fingerprint_file(file) for file in (path, *map(path.parent.joinpath, names))]


def _files_of_weights(message: Any) -> Iterator[str]:
    """Yield the files named by the tensors anywhere in a message, such as in a model."""
    if message.DESCRIPTOR.name == "TensorProto":
        if message.data_location == message.EXTERNAL:
            yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in [value] if hasattr(value, "ListFields") else value:
                yield from _files_of_weights(part)


def _runtime(path: Path) -> Any:
    try:
        # Here, since it is an extra.
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            "onnxruntime", extra="onnx", purpose=f"{path}: an ONNX model"
        ) from (error)
    return onnxruntime


def _refuse_unfetched(path: Path) -> None:
    try:
        require_regular_file(path)
        with path.open("rb") as file:
            start = file.read(LONGEST_START_BYTES)
    except OSError as error:
        raise WeightsError(
            f"{path}: the model cannot be read ({error.strerror}). Give the path of an ONNX file."
        ) from error
    reason = describe_unfetched(start, "an ONNX model")
    if not start:
        reason = "the file is empty. Copy or export it again."
    if reason is not None:
        raise WeightsError(f"{path}: {reason}")


def _port(port: Any) -> Port:
    return Port(
        shape=tuple(side if isinstance(side, int) and side > 0 else None for side in port.shape),
        dtype=_TYPES.get(port.type, port.type),
    )


def _reason(error: Exception) -> str:
    """Return what the runtime says, without its number of the error and in one line."""
    return " ".join(str(error).split())[:300]

"""What holds for every test: one torch thread, no network, a working folder of its own."""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# Read by torch when a test first imports it, and inherited by the subprocesses of tests: two
# workers with a thread for each core would slow each other down. Set here rather than through
# torch, so that light tests never load it.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

# Deadlines measure the machine, not the code; derandomised examples make a failure repeatable.
settings.register_profile("distildet", deadline=None, derandomize=True)
settings.load_profile("distildet")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _own_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        # Worker processes of a data loader speak through sockets of the file system.
        if self.family != socket.AF_UNIX:
            raise RuntimeError(f"A test tried to reach {address!r}; tests use no network.")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@pytest.fixture(scope="session")
def project() -> Path:
    """Root of the repository."""
    return PROJECT


@pytest.fixture(scope="session")
def shared_data(project: Path) -> Path:
    """Folder of the photographs beside the repository; without it the test is skipped."""
    folder = project.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the photographs are not there: ../shared/data")
    return folder


@pytest.fixture
def small_disk() -> Callable[[], AbstractContextManager[None]]:
    """A block in which no file can grow beyond 1000 bytes, as on a disk that is full.

    A block, not the whole test: pytest's own log may be a file that is larger.
    """

    @contextmanager
    def limit() -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture
def write_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Give a function that writes a model with constant outputs, and some that show its input.

    Outputs are arrays [n c] or [n] that every image gets; of `probes`, name -> (places, factor),
    each image gets its flat input at these places times the factor.
    """
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    types = {
        "float32": TensorProto.FLOAT,
        "float16": TensorProto.FLOAT16,
        "uint8": TensorProto.UINT8,
        "int64": TensorProto.INT64,
    }

    def write(
        outputs: dict[str, Any],
        *,
        probes: dict[str, tuple[list[int], float]] | None = None,
        shape: tuple[int | str, ...] = (1, 3, 32, 32),
        dtype: str = "float32",
        extra: tuple[str, ...] = (),
        name: str = "model.onnx",
    ) -> Path:
        constants: dict[str, Any] = {"zero": np.float32(0), "first": np.array([0])}
        has_batch = len(shape) == 4
        nodes = [
            helper.make_node("Cast", ["images"], ["number"], to=TensorProto.FLOAT),
            helper.make_node("Flatten", ["number"], ["flat"], axis=int(has_batch)),
            helper.make_node("Gather", ["flat", "first"], ["some"], axis=1),
            helper.make_node("Mul", ["some", "zero"], ["nothing"]),
        ]
        infos = []

        def give(found: str, output: str, kind: str, rank: int) -> None:
            nodes.append(helper.make_node("Cast", [found], [f"{output}_typed"], to=types[kind]))
            last = ["Identity", [f"{output}_typed"]]
            if not has_batch:
                last = ["Squeeze", [f"{output}_typed", "first"]]
            nodes.append(helper.make_node(last[0], last[1], [output]))
            infos.append(
                helper.make_tensor_value_info(output, types[kind], [None] * (rank + has_batch))
            )

        for output, array in outputs.items():
            values = np.asarray(array)
            start = "nothing"
            if values.ndim == 2:
                constants[f"{output}_axes"] = np.array([2])
                nodes.append(
                    helper.make_node("Unsqueeze", ["nothing", f"{output}_axes"], [f"{output}_0"])
                )
                start = f"{output}_0"
            constants[f"{output}_values"] = values[None].astype(np.float32)
            nodes.append(helper.make_node("Add", [start, f"{output}_values"], [f"{output}_sum"]))
            kind = "int64" if values.dtype == np.int64 else "float32"
            give(f"{output}_sum", output, kind, values.ndim)
        for output, (places, factor) in (probes or {}).items():
            constants[f"{output}_places"] = np.array(places)
            constants[f"{output}_factor"] = np.float32(factor)
            nodes.append(
                helper.make_node("Gather", ["flat", f"{output}_places"], [f"{output}_raw"], axis=1)
            )
            nodes.append(
                helper.make_node("Mul", [f"{output}_raw", f"{output}_factor"], [f"{output}_shown"])
            )
            give(f"{output}_shown", output, "float32", 1)
        inputs = [helper.make_tensor_value_info("images", types[dtype], shape)]
        inputs += [
            helper.make_tensor_value_info(one, TensorProto.INT64, [None, 2]) for one in extra
        ]
        graph = helper.make_graph(
            nodes,
            "boxes",
            inputs,
            infos,
            [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.checker.check_model(model)
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write

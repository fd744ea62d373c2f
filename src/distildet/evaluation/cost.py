"""What a detector costs: parameters, operations, time."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from distildet.errors import ConfigError
from distildet.ops.out_of_memory import told_when_out_of_memory

# The first runs pay for memory and for the choice of kernels.
_WARM_UP_RUNS = 3


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one run of a detector costs.

    Args:
        parameters: Number of all parameters, trained or frozen; shared ones count once. None where
            PyTorch has none, since something else computes.
        gflops: 1e9 floating-point operations of one run; a multiply-add counts as 2. None likewise.
        latency_ms: Median wall time of one run, in milliseconds.
        device: What it ran on, in words.
    """

    parameters: int | None
    gflops: float | None
    latency_ms: float
    device: str


def measure_cost(detector: nn.Module, run: Callable[[], object], *, runs: int = 20) -> Cost:
    """Measure a detector by running it.

    Operations are those that PyTorch counts: convolutions, matrix products and attention.
    Element-wise work, pooling, resizing and post-processing (NMS) are not in them, but are in the
    latency. Gradients are off; whether the detector is in eval mode is up to `run`.

    Args:
        detector: Its parameters are counted, and their device is the one that is waited for.
        run: Runs the detector once, on one image for a latency at batch 1.
        runs: Timed runs, at least 1, after one that counts and some that warm up.

    Raises:
        ConfigError: runs < 1.
        ResourceError: The memory is too small for one run.
    """
    if runs < 1:
        raise ConfigError(
            f"The cost measurement's runs is {runs}. Accepted: 1 or more; 20 give a steady median."
        )
    parameters = list(detector.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    advice = (
        f"The cost measurement: the memory of {device} ran out in a single run. Free memory and "
        "run the same command again."
    )
    with torch.no_grad(), told_when_out_of_memory(advice):
        with FlopCounterMode(display=False) as counter:
            run()
        for _ in range(_WARM_UP_RUNS):
            run()
        times_ms = [_time_ms(run, device) for _ in range(runs)]
    return Cost(
        parameters=sum(parameter.numel() for parameter in parameters) if parameters else None,
        gflops=counter.get_total_flops() / 1e9 if parameters else None,
        latency_ms=statistics.median(times_ms),
        device=_device_words(device),
    )


def _time_ms(run: Callable[[], object], device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    run()
    _wait_for(device)
    return (time.perf_counter() - start) * 1e3


def _wait_for(device: torch.device) -> None:
    # Work of CUDA and MPS is queued: without waiting, only the queueing would be timed.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _device_words(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"GPU of {_cpu_model()}"
    threads = torch.get_num_threads()
    return f"{_cpu_model()}, {threads} thread{'s' if threads > 1 else ''}"


def _cpu_model() -> str:
    """Name the processor; `platform` knows only its architecture on most Linux systems."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()

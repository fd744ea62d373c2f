"""The device that a process computes on."""

import torch

from distildet.errors import ConfigError
from distildet.ops.precision import Precision, refuse_unsupported
from distildet.ops.processes import num_processes
from distildet.training.distributed import local_rank


def choose_device(name: str, precision: Precision = "fp32") -> torch.device:
    """Return the device of a name: cpu, cuda, mps, or auto for the best that is there.

    Of several processes on a machine each takes a GPU of its own.

    Args:
        name: Of the device.
        precision: What it shall compute in.

    Raises:
        ConfigError: The name is unknown, there is no such device, or too few for the processes;
            or it does not compute in the precision.
    """
    is_there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(device for device, present in is_there.items() if present)
    kind = name.split(":")[0]
    if kind not in is_there:
        raise ConfigError(f"--device is {name!r}. Accepted: auto, cpu, cuda, cuda:N, mps.")
    if not is_there[kind]:
        raise ConfigError(f"--device is {name!r}, but this machine has none. Use --device cpu.")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if name not in {kind, *(f"{kind}:{number}" for number in range(count))}:
        raise ConfigError(
            f"--device is {name!r}. Accepted here: {kind}, or {kind}:N with N below {count}."
        )
    chosen = torch.device(name) if num_processes() == 1 else _own_device(name, count)
    refuse_unsupported(chosen, precision)
    return chosen


def _own_device(name: str, count: int) -> torch.device:
    """Return the device of this one of several processes."""
    if name == "cpu":
        return torch.device(name)
    if name != "cuda" or local_rank() >= count:
        raise ConfigError(
            f"--device is {name!r} with {num_processes()} processes; this machine has {count} of "
            "it. Accepted with several processes: cpu, or cuda with at most one process for each "
            "GPU of a machine (torchrun --nproc-per-node)."
        )
    own = torch.device("cuda", local_rank())
    torch.cuda.set_device(own)
    return own

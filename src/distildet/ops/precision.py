"""The type of numbers that networks compute in; everything around them computes in float32.

Weights are float32 always: only the inputs of convolutions and matrix products are rounded, as
torch's autocast does it.
"""

from typing import Literal, TypeAlias

import torch

from distildet.errors import ConfigError

Precision: TypeAlias = Literal["fp32", "bf16", "fp16"]

_ROUNDED = {"bf16": torch.bfloat16, "fp16": torch.float16}


def network_precision(device: torch.device, precision: Precision) -> torch.autocast:
    """Return a block in which networks compute in a precision.

    Each pass of a network needs a block of its own: rounded weights are kept to the end of the
    outermost block, and those of a pass without gradient would give none to the next pass.

    Args:
        device: Where the networks are.
        precision: With "fp32" nothing is rounded, in a block of another precision neither.
    """
    if precision == "fp32":
        return full_precision(device)
    return torch.autocast(device.type, dtype=_ROUNDED[precision])


def full_precision(device: torch.device) -> torch.autocast:
    """Return a block without autocast, for what loses too much when it is rounded.

    Args:
        device: Where the numbers are.
    """
    return torch.autocast(device.type, enabled=False)


def refuse_unsupported(device: torch.device, precision: Precision) -> None:
    """Make sure that a device computes in a precision by itself.

    Raises:
        ConfigError: It does not.
    """
    if precision != "bf16":
        return
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            f"--precision is 'bf16', but {device} ({torch.cuda.get_device_name(device)}) only "
            "imitates it, slowly. Accepted here: fp32, fp16."
        )
    if device.type == "mps" and not torch.backends.mps.is_macos_or_newer(14, 0):
        raise ConfigError(
            "--precision is 'bf16', but mps has it from macOS 14 on. Accepted here: fp32, fp16."
        )

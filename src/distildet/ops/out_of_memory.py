"""How the lack of memory shows, which is not the same on all devices."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distildet.errors import ResourceError

# What errors of other types say: MPS (of all its memory, and of one buffer), the CPU on Linux and
# macOS and on Windows, and libraries of CUDA that ask for memory of their own.
_SAID = (
    "MPS backend out of memory",
    "Invalid buffer size",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, of a device or of the machine.

    Args:
        error: Of any type.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SAID)


@contextmanager
def told_when_out_of_memory(message: str) -> Iterator[None]:
    """Turn the lack of memory inside the block into an error with advice.

    Args:
        message: Where it happened, and what to do.

    Raises:
        ResourceError: Memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(message) from error


def release_cached_memory() -> None:
    """Give memory that torch keeps for later back to the device, to be cut in other pieces."""
    torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()

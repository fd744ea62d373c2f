import numpy as np
import pytest
import torch

from distildet.errors import ResourceError
from distildet.ops.out_of_memory import (
    is_out_of_memory,
    release_cached_memory,
    told_when_out_of_memory,
)

MORE_THAN_ANY_MACHINE_HAS = 10**15


@pytest.mark.parametrize("allocate", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_the_lack_of_memory_of_this_machine_is_recognised(allocate):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        allocate(MORE_THAN_ANY_MACHINE_HAS)

    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.2 GB, max allowed: 18.1 GB)."),
        RuntimeError("Invalid buffer size: 24.00 GB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough"
            " memory: you tried to allocate 4 bytes."
        ),
        RuntimeError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_the_lack_of_memory_of_other_devices_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("MPS backend out of memory"),
    ],
)
def test_other_errors_are_not_taken_for_the_lack_of_memory(error):
    assert not is_out_of_memory(error)


def test_the_lack_of_memory_becomes_an_error_with_advice():
    with (
        pytest.raises(ResourceError, match="Use a smaller one"),
        told_when_out_of_memory("Use a smaller one."),
    ):
        torch.empty(MORE_THAN_ANY_MACHINE_HAS)


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match="a bug"), told_when_out_of_memory("advice"):
        raise RuntimeError("a bug")


def test_cached_memory_can_be_released_on_a_machine_without_gpu():
    release_cached_memory()

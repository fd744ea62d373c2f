import pytest
import torch

from distildet.errors import ConfigError
from distildet.ops.precision import full_precision, network_precision, refuse_unsupported

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_a_network_computes_in_its_precision_and_keeps_its_weights(precision, dtype):
    network = torch.nn.Linear(3, 2)

    with network_precision(CPU, precision):
        result = network(torch.ones(1, 3))

    assert result.dtype == dtype
    assert network.weight.dtype == torch.float32


@pytest.mark.parametrize(
    "inner", [lambda: network_precision(CPU, "fp32"), lambda: full_precision(CPU)]
)
def test_full_precision_holds_in_a_block_of_another(inner):
    network = torch.nn.Linear(3, 2)

    with network_precision(CPU, "bf16"), inner():
        result = network(torch.ones(1, 3))

    assert result.dtype == torch.float32


def test_a_pass_without_gradient_takes_none_from_the_next():
    network, batch = torch.nn.Linear(3, 2), torch.ones(1, 3)

    with torch.no_grad(), network_precision(CPU, "bf16"):
        network(batch)
    with network_precision(CPU, "bf16"):
        network(batch).sum().backward()

    # The derivative of each output by its weights is the input.
    assert network.weight.grad.tolist() == [[1.0, 1.0, 1.0]] * 2


@pytest.mark.parametrize("device", [CPU, CUDA, MPS])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_device_takes_fp32_and_fp16(device, precision):
    refuse_unsupported(device, precision)


def test_the_cpu_takes_bf16():
    refuse_unsupported(CPU, "bf16")


def test_a_gpu_that_imitates_bf16_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)

    with pytest.raises(ConfigError, match=r"'bf16', but cuda:0 \(Tesla T4\) only imitates it"):
        refuse_unsupported(CUDA, "bf16")


def test_a_gpu_with_bf16_takes_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)

    refuse_unsupported(CUDA, "bf16")


def test_mps_has_bf16_from_macos_14_on(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major < 14)
    with pytest.raises(ConfigError, match="mps has it from macOS 14 on"):
        refuse_unsupported(MPS, "bf16")

    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: major <= 14)
    refuse_unsupported(MPS, "bf16")

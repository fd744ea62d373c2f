import time

import pytest
import torch
from torch import nn

from distildet.errors import ConfigError, ResourceError
from distildet.evaluation.cost import measure_cost


def test_parameters_and_operations_of_a_convolution():
    # 3 x 3 kernels from 2 to 4 channels: 2 * 4 * 9 = 72 weights and 4 biases. Each of the
    # 8 * 8 * 4 = 256 outputs takes 18 multiply-adds: 256 * 18 * 2 = 9216 operations.
    conv = nn.Conv2d(2, 4, 3, padding=1)
    image = torch.zeros(1, 2, 8, 8)

    cost = measure_cost(conv, lambda: conv(image), runs=1)

    assert cost.parameters == 76
    assert cost.gflops == pytest.approx(9216e-9)


def test_frozen_parameters_count_and_shared_ones_count_once():
    linear = nn.Linear(3, 2).requires_grad_(requires_grad=False)
    detector = nn.Sequential(linear, nn.ReLU(), nn.ModuleList([linear]))

    cost = measure_cost(detector, lambda: linear(torch.zeros(1, 3)), runs=1)

    assert cost.parameters == 3 * 2 + 2


def test_latency_is_the_median_in_milliseconds():
    # One pass counts operations, three warm up; of the five timed ones two are slow.
    pauses = iter([0.0] * 4 + [0.01, 0.01, 0.01, 0.1, 0.1])

    cost = measure_cost(nn.Identity(), lambda: time.sleep(next(pauses)), runs=5)

    assert 10 <= cost.latency_ms < 60
    assert next(pauses, None) is None


def test_runs_have_no_gradient():
    conv = nn.Conv2d(1, 1, 1)
    outputs = []

    measure_cost(conv, lambda: outputs.append(conv(torch.zeros(1, 1, 2, 2))), runs=2)

    assert [output.requires_grad for output in outputs] == [False] * 6
    assert torch.is_grad_enabled()


def test_of_a_detector_that_torch_does_not_compute_time_alone_is_measured():
    cost = measure_cost(nn.Identity(), lambda: None, runs=1)

    assert (cost.parameters, cost.gflops) == (None, None)
    assert cost.latency_ms >= 0


def test_device_is_named_with_its_threads():
    cost = measure_cost(nn.Identity(), lambda: None, runs=1)

    assert cost.device.endswith(f", {torch.get_num_threads()} thread") or cost.device.endswith(
        f", {torch.get_num_threads()} threads"
    )
    assert not cost.device.startswith(",")


def test_measuring_prints_nothing(capfd):
    measure_cost(nn.Identity(), lambda: None, runs=1)

    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
def test_latency_on_cuda_waits_for_the_device():
    matrix = torch.rand(8192, 8192, device="cuda")
    detector = nn.Linear(1, 1).cuda()

    cost = measure_cost(detector, lambda: matrix @ matrix, runs=5)

    # 2 * 8192^3 = 1100 GFLOP; no device today does that in a millisecond, queueing it does.
    assert cost.gflops == pytest.approx(2 * 8192**3 / 1e9)
    assert cost.latency_ms > 1
    assert cost.device == torch.cuda.get_device_name()


@pytest.mark.parametrize("runs", [0, -1])
def test_runs_below_one_are_refused(runs):
    with pytest.raises(ConfigError, match=f"runs is {runs}. Accepted: 1 or more"):
        measure_cost(nn.Identity(), lambda: None, runs=runs)


def test_memory_too_small_for_one_run_is_told():
    def run_out():
        raise torch.OutOfMemoryError

    with pytest.raises(ResourceError, match="The cost measurement: the memory of cpu ran out"):
        measure_cost(nn.Identity(), run_out)

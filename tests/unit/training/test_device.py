import os

import pytest
import torch

from distildet.errors import ConfigError
from distildet.ops.processes import rank
from distildet.training.device import choose_device

PLACE = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.fixture
def machine_with(monkeypatch):
    """A machine that has so many GPUs, as far as torch can tell."""

    def build(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)

    return build


def chosen_by_each(in_processes, name):
    def work():
        os.environ |= {**PLACE, "RANK": str(rank()), "LOCAL_RANK": str(rank())}
        return choose_device(name)

    return in_processes(work)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_takes_a_gpu_of_its_own(in_processes, machine_with, name):
    machine_with(2)

    chosen = chosen_by_each(in_processes, name)

    assert chosen == [torch.device("cuda", 0), torch.device("cuda", 1)]


def test_processes_may_share_the_cpu(in_processes, machine_with):
    machine_with(1)

    assert chosen_by_each(in_processes, "cpu") == [torch.device("cpu")] * 2


@pytest.mark.parametrize(("count", "name"), [(1, "cuda"), (2, "cuda:1")])
def test_processes_do_not_share_a_gpu(in_processes, machine_with, count, name):
    machine_with(count)

    error = chosen_by_each(in_processes, name)[1]

    with pytest.raises(ConfigError, match=f"'{name}' with 2 processes; this machine has {count}"):
        raise error


def test_one_process_takes_what_is_asked_for(machine_with):
    machine_with(2)

    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "--device is 'gpu'. Accepted: auto, cpu, cuda"),
        ("cuda:2", "Accepted here: cuda, or cuda:N with N below 2"),
    ],
)
def test_an_unknown_device_is_refused(machine_with, name, message):
    machine_with(2)

    with pytest.raises(ConfigError, match=message):
        choose_device(name)


def test_a_missing_device_is_refused(machine_with):
    machine_with(0)

    with pytest.raises(ConfigError, match="'cuda', but this machine has none"):
        choose_device("cuda")

import torch

from distildet.ops.draws import (
    draw_seed,
    generator_states,
    set_generator_states,
    step_seed,
    with_step_seed,
)

CPU = torch.device("cpu")


def test_all_parts_of_a_step_have_one_seed():
    with with_step_seed(7):
        first = step_seed()
        torch.rand(2)
        second = step_seed()

    assert (first, second) == (7, 7)


def test_without_a_step_every_seed_is_drawn_anew():
    torch.manual_seed(0)
    with with_step_seed(7):
        pass

    assert step_seed() != step_seed()


def test_a_seed_depends_on_the_global_generator_alone():
    torch.manual_seed(3)
    first = draw_seed()
    torch.manual_seed(3)

    assert draw_seed() == first
    assert 0 <= first < 2**62


def test_generators_draw_again_what_they_drew():
    states = generator_states(CPU)
    first = torch.rand(3)

    set_generator_states(states, CPU)

    assert torch.rand(3).equal(first)


class DeviceOfOneGenerator:
    """Stands for torch.cuda or torch.mps."""

    state = torch.tensor([1], dtype=torch.uint8)

    @classmethod
    def get_rng_state(cls):
        return cls.state.clone()

    @classmethod
    def set_rng_state(cls, state):
        cls.state = state


def test_the_generator_of_the_device_is_among_them(monkeypatch):
    monkeypatch.setattr(torch, "get_device_module", lambda device: DeviceOfOneGenerator)
    states = generator_states(torch.device("cuda"))
    first = torch.rand(3)
    monkeypatch.setattr(DeviceOfOneGenerator, "state", torch.tensor([9], dtype=torch.uint8))

    set_generator_states(states, torch.device("cuda"))

    assert DeviceOfOneGenerator.state.item() == 1
    assert torch.rand(3).equal(first)

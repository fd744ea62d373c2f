"""Random draws of a step that is computed in parts: by several processes, in micro-batches.

What a part draws from the generators of torch depends on what is in it, as with dropout. What must
be equal in all parts is drawn from a seed that they share.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

_SEED: ContextVar[int | None] = ContextVar("seed of a step", default=None)


def draw_seed() -> int:
    """Return a number 0..2^62 - 1 from torch's global generator."""
    return int(torch.randint(2**62, ()))


def step_seed() -> int:
    """Return the seed that all parts of the step share; a new one where there is no step."""
    seed = _SEED.get()
    return draw_seed() if seed is None else seed


@contextmanager
def with_step_seed(seed: int) -> Iterator[None]:
    """Let `step_seed` return a number inside the block.

    Args:
        seed: The same for every part of a step, and another one for every step.
    """
    token = _SEED.set(seed)
    try:
        yield
    finally:
        _SEED.reset(token)


def generator_states(device: torch.device) -> list[Tensor]:
    """Return the states of the generators that a computation draws from.

    Args:
        device: Of the computation; that of the CPU is among them in any case.
    """
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_generator_states(states: Sequence[Tensor], device: torch.device) -> None:
    """Let the generators draw again what they drew from these states on.

    Args:
        states: As `generator_states` returned them.
        device: The same as there.
    """
    torch.set_rng_state(states[0])
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1])

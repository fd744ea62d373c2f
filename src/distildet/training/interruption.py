"""SIGINT and SIGTERM: the first is remembered until a checkpoint is written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch

from distildet.errors import InterruptedRunError
from distildet.ops.processes import largest_of_processes


class Interruption:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def request(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; a second SIGINT stops at once."""
        if self.signal is not None and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self.signal = signal.Signals(number)

    def has_reached_any(self) -> bool:
        """Tell whether a signal has arrived in any process; it then counts for all of them.

        All processes must ask at the same moment.
        """
        latest = int(largest_of_processes(torch.tensor(self.signal or 0)))
        if latest:
            self.signal = signal.Signals(latest)
        return latest > 0

    def raise_if_requested(self) -> None:
        """Stop here if somebody asked for it.

        Raises:
            InterruptedRunError: A signal has arrived.
        """
        if self.signal is not None:
            raise InterruptedRunError(
                f"Stopped by {self.signal.name}. Everything finished is on disk; the same command "
                "goes on from there.",
                exit_code=128 + self.signal,
            )


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Catch SIGINT and SIGTERM inside the block; the former handlers come back after it.

    Python gives signals to the main thread only; in another thread nothing is caught.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    former = {
        number: signal.signal(number, interruption.request)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield interruption
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)

import signal
import subprocess
import sys
import threading

import pytest

from distildet.errors import InterruptedRunError
from distildet.ops.processes import rank
from distildet.training.interruption import Interruption, interruptible

WAITING = """
import time
from distildet.errors import InterruptedRunError
from distildet.ops.processes import rank
from distildet.training.interruption import interruptible
try:
    with interruptible() as interruption:
        print("ready", flush=True)
        while interruption.signal is None:
            time.sleep(0.01)
        print("remembered", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("stopped at once", flush=True)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_remembered_until_it_is_asked_for(number, code):
    with interruptible() as interruption:
        signal.raise_signal(number)

        with pytest.raises(InterruptedRunError, match=f"Stopped by {number.name}") as raised:
            interruption.raise_if_requested()

    assert raised.value.exit_code == code


def test_a_second_sigint_stops_at_once():
    with interruptible():
        signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_is_remembered_too():
    with interruptible() as interruption:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

        assert interruption.signal is signal.SIGTERM


def test_in_another_thread_the_handlers_stay_as_they_are():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        with interruptible() as interruption:
            seen.append((interruption.signal, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert seen == [(None, before)]


def test_without_a_signal_nothing_is_raised():
    Interruption().raise_if_requested()


def test_the_former_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    with interruptible():
        inside = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert after == before
    assert inside != before


def test_a_process_remembers_the_first_sigint_and_obeys_the_second():
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "remembered\n"
        process.send_signal(signal.SIGINT)

        assert process.stdout.readline() == "stopped at once\n"
        assert process.wait(timeout=10) == 0


def test_alone_only_an_own_signal_counts():
    interruption = Interruption()
    before = interruption.has_reached_any()
    interruption.request(signal.SIGINT, None)

    assert (before, interruption.has_reached_any()) == (False, True)
    assert interruption.signal is signal.SIGINT


def test_a_signal_to_one_process_counts_for_all(in_processes):
    def work():
        interruption = Interruption()
        before = interruption.has_reached_any()
        if rank() == 1:
            interruption.request(signal.SIGTERM, None)
        return before, interruption.has_reached_any(), interruption.signal

    assert in_processes(work) == [(False, True, signal.SIGTERM)] * 2

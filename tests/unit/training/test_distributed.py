"""Processes with the environment that torchrun gives them, forked from the test."""

import multiprocessing
import os
import signal
import socket
import time
from contextlib import suppress
from datetime import timedelta

import pytest

from distildet import training
from distildet.errors import ConfigError, DataError, InterruptedRunError, ResourceError
from distildet.ops.processes import num_processes, rank, wait_for_all
from distildet.ops.shared_work import share_out
from distildet.training.distributed import (
    is_first_to_say,
    local_rank,
    num_started,
    process_group,
)


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(work, process, port, pipes):
    """What one process does, with its place in the environment."""
    results = pipes[process][1]
    # The end of a pipe is seen when nobody holds its other side any more.
    pipes[1 - process][1].close()
    os.environ |= {
        "WORLD_SIZE": "2",
        "RANK": str(process),
        "LOCAL_RANK": str(process),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    try:
        result = work(process)
    except Exception as error:
        result = (type(error), str(error), getattr(error, "exit_code", None))
    results.send(result)
    # A process of torchrun ends; one that was forked would go on with the tests.
    if process > 0:
        os._exit(0)
    results.recv()


def received(pipe):
    """What a process sent, or that it was killed."""
    try:
        return pipe.recv()
    except EOFError:
        return "killed"


@pytest.fixture
def in_started():
    """Do something in two processes that have not joined; return what came of it, by rank."""
    context = multiprocessing.get_context("fork")

    def run(work):
        port = free_port()
        pipes = [context.Pipe() for _ in range(2)]
        processes = [
            context.Process(target=started, args=(work, process, port, pipes))
            for process in range(2)
        ]
        for process in processes:
            process.start()
        for _, other_end in pipes:
            other_end.close()
        # Rank 0 keeps what both share, until both have ended.
        results = [received(pipe) for pipe, _ in pipes]
        with suppress(OSError):
            pipes[0][0].send("done")
        for process in processes:
            process.join(20)
        return results

    return run


def test_alone_nothing_is_joined():
    with process_group():
        assert (num_processes(), rank(), num_started(), local_rank()) == (1, 0, 1, 0)


def test_started_processes_join_and_part(in_started):
    def work(process):
        with process_group():
            with process_group():  # joined already
                inside = num_processes(), rank(), num_started(), local_rank()
            wait_for_all()
        return inside, num_processes()

    assert in_started(work) == [((2, 0, 2, 0), 1), ((2, 1, 2, 1), 1)]


def test_an_error_of_one_ends_the_other_with_its_message_and_code(in_started):
    def work(process):
        with process_group():
            if process == 1:
                raise DataError("a.jpg is damaged.")
            wait_for_all()

    first, second = in_started(work)

    assert first == (InterruptedRunError, "a.jpg is damaged.", 2)
    assert second == (DataError, "a.jpg is damaged.", 2)


def test_a_bug_in_one_ends_the_other_with_its_name(in_started):
    def work(process):
        with process_group():
            if process == 1:
                raise KeyError("x")
            wait_for_all()

    first, second = in_started(work)

    assert first == (InterruptedRunError, "Process 1 ended with KeyError: 'x'", 1)
    assert second[0] is KeyError


def test_a_process_that_leaves_without_a_word_is_an_error_of_the_machine(in_started):
    def work(process):
        with process_group():
            if process == 0:
                wait_for_all()

    first, second = in_started(work)

    assert first[0] is ResourceError
    assert "ended without a word" in first[1]
    assert second is None


def test_a_process_that_is_killed_is_an_error_of_the_machine(in_started):
    def work(process):
        with process_group():
            if process == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            wait_for_all()

    first, second = in_started(work)

    assert first[0] is ResourceError
    assert "ended without a word" in first[1]
    assert second == "killed"


def test_who_kept_the_table_may_be_killed_too(in_started):
    # As without torchrun, rank 0 keeps it here.
    def work(process):
        with process_group():
            if process == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            wait_for_all()

    first, second = in_started(work)

    assert first == "killed"
    assert second[0] is ResourceError
    assert "ended without a word" in second[1]


def test_waiting_for_too_long_is_told_as_such(in_started, monkeypatch):
    monkeypatch.setattr(training.distributed, "LONGEST_WAIT", timedelta(seconds=0.36))

    def work(process):
        with process_group():
            if process == 0:
                wait_for_all()
            time.sleep(1)

    first, second = in_started(work)

    assert first[0] is ResourceError
    assert "Process 0 waited for another one for 0.0001 hours and gave up" in first[1]
    assert second is None


def test_an_own_error_comes_before_that_another_process_ended(in_started):
    def compute(items):
        raise DataError("a.jpg is damaged.")

    def work(process):
        with process_group():
            if process == 0:
                share_out(range(4), compute)

    assert in_started(work)[0] == (DataError, "a.jpg is damaged.", 2)


def test_torchrun_stopping_the_others_does_not_hide_why(in_started):
    # The other process has noted its error before torchrun sends its signal.
    def work(process):
        with process_group():
            if process == 1:
                raise DataError("a.jpg is damaged.")
            try:
                wait_for_all()
            except RuntimeError:
                raise InterruptedRunError("Stopped by SIGTERM.", exit_code=143) from None

    assert in_started(work)[0] == (InterruptedRunError, "a.jpg is damaged.", 2)


def test_one_of_two_is_first_to_say_a_message(in_started):
    same, own = zip(
        *in_started(lambda process: (is_first_to_say("same"), is_first_to_say(f"of {process}"))),
        strict=True,
    )

    assert sorted(same) == [False, True]
    assert own == (True, True)


def test_alone_one_is_always_first():
    assert is_first_to_say("again")
    assert is_first_to_say("again")


def test_without_the_list_everybody_speaks(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert is_first_to_say("message")


@pytest.mark.parametrize("size", ["0", "many", "-1"])
def test_a_strange_number_of_processes_is_refused(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)

    with pytest.raises(ConfigError, match=f"WORLD_SIZE is '{size}'.*torchrun"), process_group():
        pass


def test_a_process_that_does_not_know_its_place_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")

    message = (
        "these are not set: LOCAL_RANK, MASTER_ADDR, MASTER_PORT. Start several processes with"
    )
    with pytest.raises(ConfigError, match=message), process_group():
        pass


def test_processes_that_do_not_find_each_other_are_an_error_of_the_machine(in_started):
    def work(process):
        os.environ["MASTER_PORT"] = "none"
        with process_group():
            pass

    assert [result[0] for result in in_started(work)] == [ResourceError, ResourceError]

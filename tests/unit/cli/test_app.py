import sys

import pytest

from distildet.cli.app import app, main


@pytest.fixture
def among_three(monkeypatch):
    """The environment of one of three processes, of which nobody else is there."""
    monkeypatch.setenv("WORLD_SIZE", "3")


def test_commands_that_do_not_share_their_work_refuse_several_processes(
    among_three, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["distildet", "list"])

    with pytest.raises(SystemExit) as raised:
        main()

    assert raised.value.code == 2
    message = "list: 3 processes were started, and only run, label, evaluate share their work"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
@pytest.mark.parametrize(("rank", "is_heard"), [("0", True), ("1", False)])
def test_only_the_first_process_prints_help(
    among_three, monkeypatch, capsys, arguments, rank, is_heard
):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(sys, "argv", ["distildet", *arguments])

    with pytest.raises(SystemExit) as raised:
        main()

    assert not raised.value.code
    assert bool("".join(capsys.readouterr())) is is_heard


@pytest.mark.parametrize("arguments", [["run"], ["run", "--nonsense"], ["wrong"], []])
def test_faults_of_usage_keep_their_exit_code_among_processes(
    among_three, monkeypatch, capsys, arguments
):
    monkeypatch.setattr(sys, "argv", ["distildet", *arguments])

    with pytest.raises(SystemExit) as raised:
        main()

    assert raised.value.code == 2
    assert "Usage: " in "".join(capsys.readouterr())


@pytest.fixture
def run_out(monkeypatch):
    """Run a command of the program that ends with an error."""

    def run(error):
        def fill():
            raise error

        monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))
        app.command("fill")(fill)
        monkeypatch.setattr(sys, "argv", ["distildet", "fill"])
        main()

    return run


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_the_lack_of_memory_is_told_with_advice_and_without_a_traceback(run_out, capsys, error):
    with pytest.raises(SystemExit) as raised:
        run_out(error)

    assert raised.value.code == 3
    message = capsys.readouterr().err
    assert "Memory ran out. Free some" in message
    assert "Traceback" not in message


def test_a_bug_is_not_taken_for_the_lack_of_memory(run_out):
    with pytest.raises(RuntimeError, match="a bug"):
        run_out(RuntimeError("a bug"))

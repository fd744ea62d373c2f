import sys

import pytest

from distildet.cli.app import main


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

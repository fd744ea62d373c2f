import pytest

from distildet.cli.console import Console, plain_text, speaks


def test_control_characters_of_names_become_visible():
    assert plain_text("a\x1b[31mb\rc\nd") == "a\\x1b[31mb\\rc\nd"


def test_names_of_other_scripts_stay_as_they_are():
    assert plain_text("Fähre 船") == "Fähre 船"


def test_lines_of_one_work_come_at_intervals_and_at_its_end(capsys):
    console = Console()

    for done in range(1, 6):
        console.advance("seed-0/02-train", done, 5, {"loss": 0.25})

    assert capsys.readouterr().out.splitlines() == [
        "seed-0/02-train: 1/5  loss 0.250",
        "seed-0/02-train: 5/5  loss 0.250",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0.00"),
        (0.25, "0.250"),
        (0.000123456, "0.000123"),
        (1.2345e-6, "1.23e-06"),
        (12.345, "12.3"),
        (123.4, "123"),
        (12345.6, "1.23e+04"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_have_three_significant_digits(capsys, value, expected):
    Console().advance("train", 5, 5, {"loss": value})

    assert capsys.readouterr().out == f"train: 5/5  loss {expected}\n"


@pytest.mark.parametrize("text", ["[bold]", "{{7*7}}", "a/b"])
def test_markup_in_messages_is_printed_as_it_is(text, capsys):
    Console().message(text)

    assert capsys.readouterr().out == f"{text}\n"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, True),
        ({"RANK": "1"}, True),
        ({"WORLD_SIZE": "1", "RANK": "0"}, True),
        ({"WORLD_SIZE": "2", "RANK": "0"}, True),
        ({"WORLD_SIZE": "2", "RANK": "1"}, False),
        # Nobody knows who is first, so that everybody speaks.
        ({"WORLD_SIZE": "2"}, True),
    ],
)
def test_of_several_processes_the_first_speaks(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert speaks() is expected

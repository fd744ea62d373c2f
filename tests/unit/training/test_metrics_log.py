import pytest

from distildet.errors import ResourceError
from distildet.training.metrics_log import MetricsLog


@pytest.fixture
def log(tmp_path):
    log = MetricsLog(tmp_path / "stage" / "metrics.jsonl")
    log.append({"step": 1, "loss": 2.5})
    log.append({"step": 2, "AP": None})
    log.append({"step": 2, "loss": 0.5})
    log.append({"step": 3, "loss": 0.25})
    return log


def test_records_are_lines_of_json_in_the_order_of_writing(log):
    assert log.path.read_text() == (
        '{"step": 1, "loss": 2.5}\n{"step": 2, "AP": null}\n'
        '{"step": 2, "loss": 0.5}\n{"step": 3, "loss": 0.25}\n'
    )


@pytest.mark.parametrize(("step", "lines"), [(0, 0), (1, 1), (2, 3), (3, 4), (9, 4)])
def test_records_after_a_step_are_dropped(log, step, lines):
    before = log.path.read_text().splitlines()

    log.keep_until(step)

    assert log.path.read_text().splitlines() == before[:lines]


@pytest.mark.parametrize(
    "torn", [b'{"step": 3, "lo', b'{"step": 3}', b'{"loss": 1}\n', b"3\n", b"\xff\xfe\n"]
)
def test_a_torn_or_foreign_last_line_is_dropped(log, torn):
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + torn)

    log.keep_until(3)

    assert log.path.read_bytes() == whole


def test_a_log_that_does_not_exist_is_not_made_by_forgetting_or_flushing(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")

    log.keep_until(3)
    log.flush()

    assert not log.path.exists()


def test_a_number_that_json_does_not_know_is_not_written(log):
    before = log.path.read_bytes()

    with pytest.raises(ValueError, match="not JSON compliant"):
        log.append({"step": 4, "loss": float("nan")})

    assert log.path.read_bytes() == before


def test_a_full_disk_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")

    with pytest.raises(ResourceError, match=r"metrics\.jsonl: .*No space left on device") as raised:
        MetricsLog(path).append({"step": 1})

    assert raised.value.exit_code == 3

"""The tables of a kept result; nothing in them is typed by hand."""

from collections.abc import Sequence
from typing import Any

COLUMNS = (
    "row",
    "case",
    "ratio of times",
    "median (95 %)",
    "CPU time",
    "ms",
    "rounds",
    "goal",
    "met",
)


def tables(document: dict[str, Any]) -> list[str]:
    """Return the Markdown lines of a result: a table for each machine that was measured on.

    Args:
        document: As `benchmarks/speed.py` keeps it.
    """
    measurements_by_machine: dict[str, list[dict[str, Any]]] = {}
    for measurement in document["measurements"]:
        line = _machine_line(measurement["machine"])
        measurements_by_machine.setdefault(line, []).append(measurement)
    lines: list[str] = []
    for line, measurements in measurements_by_machine.items():
        rows = [row for measurement in measurements for row in measurement["rows"]]
        lines += [line, "", f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
        lines += ["", *_remarks(rows), ""]
    return lines[:-1]


def _machine_line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['device']}; {facts['cores']} cores, {facts['threads']} thread(s); "
        f"torch {facts['torch']}, torchvision {facts['torchvision']}, Python {facts['python']}:"
    )


def _cells(row: dict[str, Any]) -> Sequence[str]:
    goal, cpu = row["goal"], row["cpu_ratio"]
    return (
        f"`{row['name']}`",
        row["case"],
        f"{row['above']} / {row['below']}",
        f"{row['ratio']:.3g} ({row['low']:.3g} to {row['high']:.3g})",
        "-" if cpu is None else f"{cpu:.3g}",
        f"{row['above_ms']:,.0f} / {row['below_ms']:,.0f}",
        str(row["rounds"]),
        "-" if goal is None else f"{goal['sign']} {goal['value']:g}",
        "-" if goal is None else ("yes" if row["is_met"] else "**no**"),
    )


def _remarks(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"- {row['above']} / {row['below']}: "
        + "; ".join(f"{name} {value:.3g}" for name, value in row["remarks"].items())
        for row in rows
        if row["remarks"]
    ]

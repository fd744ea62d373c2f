"""Writes Markdown tables from the kept results of a set.

    python benchmarks/tables.py fod-pseudo-label > docs/benchmarks/fod-pseudo-label.md

Nothing in a table is typed by hand.
"""

import argparse
import json
import sys
from pathlib import Path
from statistics import stdev
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS, SETS = HERE / "results", HERE / "sets"
METRICS = ("AP", "AP50", "AP75")


def main() -> int:
    """Print the tables of one set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=sorted(path.stem for path in SETS.glob("*.toml")))
    folder = RESULTS / parser.parse_args().set
    results = [
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))
    ]
    comparisons = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "comparisons").glob("*.json"))
    ]
    print(f"# {folder.name}\n")
    print("\n".join(model_table(results)))
    print()
    print("\n".join(gain_table(results, comparisons)))
    print()
    print("\n".join(environment_lines(results)))
    return 0


def model_table(results: list[dict[str, Any]]) -> list[str]:
    """Return one row for each model of each run: mean and standard deviation over seeds, x 100."""
    rows = [
        "| run | model | seeds | " + " | ".join(METRICS) + " | parameters | GFLOPs | steps |",
        "|---|---|---|" + "---|" * (len(METRICS) + 3),
    ]
    for result in results:
        for name, model in result["models"].items():
            steps = result["steps"].get(name)
            rows.append(
                f"| {result['name']} | {name} | {len(model['per_seed'])} | "
                + " | ".join(spread(model["per_seed"], metric) for metric in METRICS)
                + f" | {shown(model['parameters'], ',')} | {shown(model['gflops'], '.2f')} | "
                + (" + ".join(map(str, steps[0])) if steps else "-")
                + " |"
            )
    return rows


def shown(number: float | None, form: str) -> str:
    """Return a number, or a dash for what was not measured."""
    return "-" if number is None else format(number, form)


def spread(per_seed: list[dict[str, float | None]], metric: str) -> str:
    """Return mean and standard deviation of a metric over seeds, x 100."""
    values = [100 * value for row in per_seed if (value := row[metric]) is not None]
    if len(values) < len(per_seed) or not values:
        return "not defined"
    mean = sum(values) / len(values)
    return f"{mean:.1f}" if len(values) == 1 else f"{mean:.1f} ± {stdev(values):.1f}"


def gain_table(results: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> list[str]:
    """Return one row for each difference with its pooled 95 % interval, x 100."""
    rows = ["| difference | AP | AP50 | verdict on AP |", "|---|---|---|---|"]
    named = [(f"{r['name']}: student - baseline", r) for r in results if r["gain"]]
    named += [(comparison["name"], comparison) for comparison in comparisons]
    for name, row in named:
        cells = [interval(row["gain"][metric]) for metric in ("AP", "AP50")]
        rows.append(f"| {name} | {cells[0]} | {cells[1]} | {row['verdict']} |")
    return rows


def interval(gain: dict[str, Any]) -> str:
    """Return a difference with its interval, x 100."""
    low, high = gain["ci95"]
    return f"{100 * gain['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def environment_lines(results: list[dict[str, Any]]) -> list[str]:
    """Return on what the runs were made, and how long they took."""
    lines = []
    for result in results:
        environment = result["environment"]
        seconds = sum(sum(stages) for arm in result["seconds"].values() for stages in arm)
        lines.append(
            f"- {result['name']}: {environment['device']}, {environment['threads']} thread(s), "
            f"torch {environment['packages']['torch']}; {seconds / 60:.0f} minutes of training"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())

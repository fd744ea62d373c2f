"""Measures how fast distildet is beside the plain libraries that it stands on.

    python benchmarks/speed.py --threads 2

Each row is a ratio of two times, or of a time and its limit. Works that are compared take turns in
one process, so that they see the same machine; shown are the median over all rounds and its 95 %
interval by bootstrap. The result goes to `results/speed/cpu.json`, the table to
`docs/benchmarks/speed.md`; rows that are not measured again with `--only` stay as they are in both.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from marked_page import write_tables
from speed_rows.adaptive import adaptive
from speed_rows.caching import caching
from speed_rows.evaluation import evaluation
from speed_rows.labeling import labeling
from speed_rows.prototypes import prototypes
from speed_rows.settings import Settings
from speed_rows.table import tables
from speed_rows.timing import Row
from speed_rows.training import distill_step, supervised_step

from distildet import artefacts

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "speed"
PAGE = HERE.parent / "docs" / "benchmarks" / "speed.md"
PHOTOGRAPHS = HERE.parents[1] / "shared" / "data" / "voc" / "images"

MEASUREMENTS: Mapping[str, Callable[[Settings], list[Row]]] = {
    "supervised-step": supervised_step,
    "distill-step": distill_step,
    "labeling": labeling,
    "cached-teacher": caching,
    "evaluation": evaluation,
    "adaptive": adaptive,
    "prototypes": prototypes,
}


def main() -> int:
    """Measure, keep the result, write the tables; return 1 if a goal is missed."""
    arguments = _parse()
    torch.set_num_threads(arguments.threads)
    measured = []
    for name in arguments.only:
        measured.append(
            {"name": name, "machine": _machine(arguments), "rows": _rows(name, arguments)}
        )
        print(f"{name}: measured", file=sys.stderr, flush=True)
    print("\n".join(tables({"measurements": measured})))
    if arguments.result is not None:
        document = _with(arguments.result, measured)
        artefacts.write_json(arguments.result, document)
        write_tables(arguments.page, tables(document))
    rows = [row for measurement in measured for row in measurement["rows"]]
    is_missed = any(row["is_met"] is False for row in rows)
    return 1 if is_missed and not arguments.quick else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2, help="CPU threads (2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(cpu)")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(MEASUREMENTS),
        default=list(MEASUREMENTS),
        help="what to measure (all)",
    )
    parser.add_argument("--repeats", type=int, help="timed rounds of every row (as the row has it)")
    parser.add_argument(
        "--images",
        type=Path,
        help="folder of photographs to label (scenes that it draws itself)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, two rounds: shows that it works; keeps nothing by itself",
    )
    parser.add_argument(
        "--result", type=Path, help="file to keep the result in (results/speed/DEVICE.json)"
    )
    parser.add_argument(
        "--page", type=Path, default=PAGE, help=f"page to write the tables into ({PAGE.name})"
    )
    arguments = parser.parse_args()
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error(f"--repeats is {arguments.repeats}, accepted is 1 and above")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device is cuda, and there is no CUDA device here; accepted is cpu")
    if arguments.result is not None and not arguments.page.is_file():
        parser.error(f"--page is {arguments.page}, which is no file; accepted is a page with marks")
    if arguments.images is not None and not arguments.images.is_dir():
        parser.error(f"--images is {arguments.images}, which is no folder")
    if arguments.images is None and PHOTOGRAPHS.is_dir() and not arguments.quick:
        arguments.images = PHOTOGRAPHS
    if arguments.result is None and not arguments.quick:
        arguments.result = RESULTS / f"{arguments.device}.json"
    return arguments


def _rows(name: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="speed-") as folder:
        settings = Settings(
            device=torch.device(arguments.device),
            folder=Path(folder),
            asked_repeats=arguments.repeats,
            is_quick=arguments.quick,
            images=arguments.images,
        )
        return [row.as_json() for row in MEASUREMENTS[name](settings)]


def _machine(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return facts that ratios depend on; none of them names the machine."""
    is_cuda = arguments.device == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_cuda else f"CPU, {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": arguments.threads,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "python": platform.python_version(),
    }


def _with(path: Path, measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a file keeps, with what was measured in place of the same of before."""
    kept: list[dict[str, Any]] = []
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))["measurements"]
    places = [(one["name"], one["machine"]["threads"]) for one in measured]
    kept = [one for one in kept if (one["name"], one["machine"]["threads"]) not in places]
    order = list(MEASUREMENTS)
    return {"measurements": sorted([*kept, *measured], key=lambda one: order.index(one["name"]))}


if __name__ == "__main__":
    sys.exit(main())

"""Kills runs with SIGKILL, starts them again, and compares them with a run left in peace.

    python benchmarks/kill_and_resume.py --kills 20 --workers 0 1 2

Makes scenes, trains a tiny teacher, and runs a recipe with a label stage, training on the pseudo
labels and fine-tuning, with a baseline beside it: once uninterrupted, then for each number of
loader workers with `kill -9`. Half of the kills in a train stage fall inside the writing of a
checkpoint. Every file of the run folders must agree, byte by byte; wall times, latencies, and
the number of workers itself are taken out first. Prints a Markdown table of the moments that were
hit and exits with 1 if a file differs or if some stage or the writing of a checkpoint was not hit.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distildet import artefacts
from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes

SEED = 3
# Two shards of pseudo labels.
TRAIN_IMAGES = 520
VALIDATION_IMAGES = 12
STAGES = ("01-label", "02-train", "03-train", "baseline/01-train", "baseline/02-train")
STEPS = {"02-train": 30, "03-train": 12, "baseline/01-train": 30, "baseline/02-train": 12}
PARTIAL = artefacts.TEMPORARY_PREFIX
REMOVALS = (f"{PARTIAL}step-", f"{PARTIAL}best")
POLL_SECONDS = 0.0005
LONGEST_LABEL_SECONDS = 0.6

STUDENT_OPTIONS = """\
student:
  detector: retinanet
  backbone: mobilenetv2_050
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 16
  head_depth: 1
  head_norm: group
  anchor_scale: 2
"""
DATA = f"""\
data:
  image_size: 64
  workers: 0
  validation: {{format: coco, images: validation, annotations: validation/{ANNOTATIONS_FILE}}}
  labeled:
    format: coco
    images: train
    annotations: train/{ANNOTATIONS_FILE}
"""
TEACHER = f"""\
name: teacher
{DATA}
{STUDENT_OPTIONS}
stages:
  - {{stage: train, steps: 30, batch_size: 6, optimizer: {{lr: 3e-3}}, evaluations: 1}}
"""
STUDENT = f"""\
name: student
seeds: [{SEED}]
{DATA}
    fraction: 0.1
  unlabeled: [labeled-rest]
{STUDENT_OPTIONS}
teachers: [{{detector: teacher/student}}]
stages:
  - {{stage: label, images: all, threshold: auto, ignore_floor: 0.051, fallback_threshold: 0.06}}
  - stage: train
    images: {{all: 1}}
    targets: {{all: pseudo}}
    steps: {STEPS["02-train"]}
    batch_size: 4
    ema: 0.9
    optimizer: {{name: adamw, lr: 2e-3}}
    evaluations: 2
    checkpoint_every: 5
  - stage: train
    steps: {STEPS["03-train"]}
    batch_size: 4
    ema: 0.9
    optimizer: {{name: sgd, lr: 1e-3}}
    batch_norm: frozen
    evaluations: 1
    checkpoint_every: 4
baseline: true
"""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """When to kill.

    Args:
        stage: One of `STAGES`.
        step: Finished steps of the stage from which the kill is due.
        is_inside_write: Wait for the next checkpoint that is being written.
        delay: Seconds to wait then.
    """

    stage: str
    step: int
    is_inside_write: bool
    delay: float


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What a kill hit.

    Args:
        workers: Loader processes of the run.
        stage: The stage that was not finished, or "result" after the last.
        step: Last step in its metrics.jsonl.
        is_inside_write: Whether an unfinished checkpoint was left.
    """

    workers: int
    stage: str
    step: int
    is_inside_write: bool


def main() -> int:
    """Run the whole comparison and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else ""
    )
    parser.add_argument("--kills", type=int, default=20, help="kills in all, at least 5")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    if arguments.kills < len(STAGES):
        parser.error(f"--kills is {arguments.kills}, accepted is {len(STAGES)} and above")
    folder = Path(tempfile.mkdtemp(prefix="kill-and-resume-"))
    try:
        return compare(folder, arguments.kills, arguments.workers, arguments.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(folder: Path, num_kills: int, workers: Sequence[int], seed: int) -> int:
    """Make the reference and the killed runs in a folder, print the table, return the exit code."""
    recipe = make_work(folder)
    reference = folder / "reference"
    run(recipe, reference)
    aims = make_aims(num_kills, random.Random(seed))  # noqa: S311 - repeatable moments
    moments: list[Moment] = []
    faults: list[str] = []
    for place, count in enumerate(workers):
        out = folder / f"workers-{count}"
        moments += run_with_kills(recipe, out, aims[place :: len(workers)], workers=count)
        faults += [f"{count} workers: {line}" for line in differences(reference, out)]
    faults += not_hit(moments)
    print(table(moments))
    num_files = sum(1 for _ in compared_files(reference))
    print(f"\n{len(moments)} kills, {num_files} files a run compared, {len(faults)} faults")
    print("".join(f"- {line}\n" for line in faults), end="")
    return 1 if faults else 0


def make_work(folder: Path, *, images: int = TRAIN_IMAGES) -> Path:
    """Make scenes, train the teacher, and return the recipe of the student."""
    make_scenes(folder / "train", images=images, seed=0, size=64)
    make_scenes(folder / "validation", images=VALIDATION_IMAGES, seed=1, size=64)
    (folder / "teacher.yaml").write_text(TEACHER, encoding="utf-8")
    (folder / "student.yaml").write_text(STUDENT, encoding="utf-8")
    run(folder / "teacher.yaml", folder / "teacher")
    return folder / "student.yaml"


def start(
    recipe: Path, out: Path, *, workers: int = 0, has_own_group: bool = False
) -> subprocess.Popen[bytes]:
    """Start `distildet run` on one CPU thread; what it prints goes to OUT.log."""
    command = [sys.executable, "-m", "distildet", "run", str(recipe), "--out", str(out)]
    command += ["--device", "cpu", "--set", f"data.workers={workers}"]
    # A file: loader processes outlive the kill for seconds and would keep a pipe open.
    with out.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own command
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0 if has_own_group else None,
        )


def run(recipe: Path, out: Path, *, workers: int = 0) -> None:
    """Run a recipe to its end."""
    code = start(recipe, out, workers=workers).wait()
    if code:
        raise SystemExit(f"exit code {code}:\n{out.with_suffix('.log').read_text()}")


def make_aims(count: int, generator: random.Random) -> list[Aim]:
    """Draw moments: each stage in turn, in train stages every other one inside a write."""
    aims = []
    for number in range(count):
        stage = STAGES[number % len(STAGES)]
        is_label = stage == "01-label"
        aims.append(
            Aim(
                stage=stage,
                step=0 if is_label else generator.randrange(STEPS[stage] - 6),
                is_inside_write=not is_label and number % 2 == 1,
                delay=generator.uniform(0, LONGEST_LABEL_SECONDS if is_label else 0.05),
            )
        )
    return aims


def run_with_kills(
    recipe: Path, out: Path, aims: Sequence[Aim], *, workers: int = 0
) -> list[Moment]:
    """Run a recipe to its end through all kills and return what they hit."""
    moments = []
    for aim in sorted(aims, key=lambda one: (STAGES.index(one.stage), one.step)):
        process = start(recipe, out, workers=workers)
        if kill_at(process, out / f"seed-{SEED}", aim):
            moments.append(moment(out / f"seed-{SEED}", workers))
        elif process.returncode:
            break
    run(recipe, out, workers=workers)
    return moments


def kill_at(process: subprocess.Popen[bytes], folder: Path, aim: Aim) -> bool:
    """Kill a process at a moment; return whether it was still running."""
    wait_for(process, lambda: is_due(folder / aim.stage, aim))
    if not aim.is_inside_write:
        time.sleep(aim.delay)
    was_running = process.poll() is None
    process.kill()
    process.wait()
    return was_running


def wait_for(process: subprocess.Popen[bytes], condition: Callable[[], bool]) -> None:
    """Wait until a condition holds or the process has ended."""
    while process.poll() is None and not condition():
        time.sleep(POLL_SECONDS)


def is_due(stage: Path, aim: Aim) -> bool:
    """Return whether a stage has come to the moment of a kill."""
    if aim.stage == "01-label":
        return (stage / "store" / "manifest.json").exists()
    return last_step(stage) > aim.step and (not aim.is_inside_write or is_writing(stage))


def last_step(stage: Path) -> int:
    """Return the step of the last whole line of metrics.jsonl, 0 without one."""
    try:
        lines = (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return 0
    whole = [line for line in lines if line.endswith("\n")]
    return int(json.loads(whole[-1])["step"]) if whole else 0


def is_writing(stage: Path) -> bool:
    """Return whether an unfinished checkpoint is there; one being deleted does not count."""
    return any(
        not path.name.startswith(REMOVALS) for path in (stage / "checkpoints").glob(f"{PARTIAL}*")
    )


def moment(folder: Path, workers: int) -> Moment:
    """Return what a kill hit, from what it left."""
    unfinished = (name for name in STAGES if not (folder / name / "DONE").exists())
    stage = next(unfinished, "result")
    return Moment(
        workers=workers,
        stage=stage,
        step=last_step(folder / stage),
        is_inside_write=is_writing(folder / stage),
    )


def not_hit(moments: Sequence[Moment]) -> list[str]:
    """Return what no kill fell into."""
    hit = {one.stage for one in moments}
    faults = [f"no kill hit {stage}" for stage in STAGES if stage not in hit]
    if not any(one.is_inside_write for one in moments):
        faults.append("no kill hit the writing of a checkpoint")
    return faults


def compared_files(out: Path) -> Iterator[tuple[str, str]]:
    """Yield name and sha256 of each file of a run that must not depend on interruptions."""
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.name not in {".lock", "environment.json"}:
            yield str(path.relative_to(out)), artefacts.fingerprint_bytes(lasting_content(path))


def lasting_content(path: Path) -> bytes:
    """Return the content of a file without times and without the number of workers."""
    content = path.read_bytes()
    if path.name == "recipe.yaml":
        lines = content.splitlines(keepends=True)
        return b"".join(line for line in lines if not line.startswith(b"  workers:"))
    if path.suffix == ".json" or path.name == "DONE":
        return json.dumps(_without_times(json.loads(content))).encode()
    return content


def _without_times(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    if not isinstance(value, dict):
        return value
    # state.json: in a checkpoint's manifest, the hash of the file that holds the seconds.
    left_out = {"seconds", "latency_ms", "workers", "state.json"}
    return {key: _without_times(item) for key, item in value.items() if key not in left_out}


def differences(reference: Path, out: Path) -> list[str]:
    """Return one line for each file that differs between two runs."""
    expected, found = dict(compared_files(reference)), dict(compared_files(out))
    lines = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    lines += [f"{name} is left over" for name in sorted(found.keys() - expected.keys())]
    common = sorted(expected.keys() & found.keys())
    return lines + [f"{name} differs" for name in common if expected[name] != found[name]]


def table(moments: Sequence[Moment]) -> str:
    """Return the moments as a Markdown table."""
    rows = ["| workers | stage | step | inside a checkpoint's writing |", "|---|---|---|---|"]
    for one in moments:
        inside = "yes" if one.is_inside_write else "no"
        rows.append(f"| {one.workers} | {one.stage} | {one.step or '-'} | {inside} |")
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())

"""The rows of the choice of prototypes: its seconds and its memory against their limits."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from distildet.ops.instance_density import dense_enough
from distildet.ops.prototype_pursuit import pursue
from speed_rows.memory import peak_bytes
from speed_rows.settings import Settings
from speed_rows.timing import Clock, Goal, Row, Work, bootstrap_interval

GOAL = Goal(sign="<=", value=1.0)
PURSUIT, FILTER, LIMIT = "pursuit", "density filter", "limit"
MOST_MB = 1000.0
PROTOTYPES = 10
SECONDS: Mapping[str, float] = {PURSUIT: 10.0, FILTER: 60.0}  # on two cores


def prototypes(settings: Settings) -> list[Row]:
    """Measure what is done once an epoch for a class and level.

    Raises:
        SystemExit: A work holds more memory than it may, beside the features.
    """
    instances, channels = (500, 32) if settings.is_quick else (20_000, 256)
    teacher, student = _features(instances, channels, settings.device)
    works: dict[str, Work] = {
        PURSUIT: lambda: pursue(teacher, student, PROTOTYPES),
        FILTER: lambda: dense_enough(teacher, student),
    }
    clock = Clock(settings.device, works).run(settings.repeats(3), warm_ups=1)
    case = f"{instances:,} instances, {channels} channels, {PROTOTYPES} prototypes"
    return [_row(clock, name, case, _remarks(name, work, settings)) for name, work in works.items()]


def _features(instances: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return those of teacher and student, in as many groups as there are prototypes."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(PROTOTYPES, channels, generator=generator)
    groups = centres[torch.randint(PROTOTYPES, (instances,), generator=generator)]
    noise = torch.randn(2, instances, channels, generator=generator)
    teacher, student = F.normalize(groups + noise, dim=2).to(device)
    return teacher, student


def _remarks(name: str, work: Work, settings: Settings) -> dict[str, float]:
    if settings.device.type != "cpu":
        return {}
    megabytes = peak_bytes(work, settings.folder) / 1e6
    if not megabytes <= MOST_MB:
        raise SystemExit(f"prototypes: {name} holds {megabytes:.0f} MB, of {MOST_MB:.0f} allowed.")
    return {"MB beside the features": megabytes}


def _row(clock: Clock, name: str, case: str, remarks: dict[str, float]) -> Row:
    ratios = np.array(clock.wall[name]) / SECONDS[name]
    low, high = bootstrap_interval(ratios)
    return Row(
        name="prototypes",
        case=case,
        above=name,
        below=LIMIT,
        above_ms=1e3 * clock.median(name),
        below_ms=1e3 * SECONDS[name],
        ratio=float(np.median(ratios)),
        low=low,
        high=high,
        cpu_ratio=None,
        rounds=len(ratios),
        goal=GOAL,
        remarks=remarks,
    )

"""Times two pieces of work in turn, and the ratio of the two with its interval."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

WARM_UPS = 2  # the first runs pay for memory and for the choice of kernels
RESAMPLES = 2000
Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a ratio shall be.

    Args:
        sign: Whether smaller or larger is better.
        value: The bound.
    """

    sign: Literal["<=", ">="]
    value: float

    def is_met_by(self, ratio: float) -> bool:
        """Return whether a ratio keeps to the bound."""
        return ratio <= self.value if self.sign == "<=" else ratio >= self.value


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measured ratio.

    Args:
        name: Of the measurement, as `--only` takes it.
        case: What exactly was measured.
        above: The work above the line, in words.
        below: The work below the line, in words.
        above_ms: Its median wall time.
        below_ms: Its median wall time.
        ratio: Median over the rounds of the ratios of wall time.
        low: Lower end of its 95 % interval.
        high: Upper end.
        cpu_ratio: The same median for the process's CPU time; None where other processes work.
        rounds: How often both were timed.
        goal: None for a row that is only information.
        remarks: Further facts, by name.
    """

    name: str
    case: str
    above: str
    below: str
    above_ms: float
    below_ms: float
    ratio: float
    low: float
    high: float
    cpu_ratio: float | None
    rounds: int
    goal: Goal | None
    remarks: dict[str, float]

    def as_json(self) -> dict[str, Any]:
        """Return the row as JSON values, with whether its goal is met."""
        is_met = None if self.goal is None else self.goal.is_met_by(self.ratio)
        return {**asdict(self), "is_met": is_met}


class Clock:
    """Times works in turn: each round runs all of them once, in an order that changes.

    Works that follow each other closely share what else the machine does.

    Args:
        device: Waited for, since CUDA work is queued.
        works: Name -> work.
        prepare: Run before each work, untimed.
    """

    def __init__(
        self, device: torch.device, works: Mapping[str, Work], *, prepare: Work | None = None
    ) -> None:
        self.device = device
        self.works = works
        self.prepare = prepare
        self.wall: dict[str, list[float]] = {name: [] for name in works}
        self.cpu: dict[str, list[float]] = {name: [] for name in works}

    def run(self, rounds: int, *, warm_ups: int = WARM_UPS) -> "Clock":
        """Run some rounds and return itself.

        Args:
            rounds: Timed ones.
            warm_ups: Rounds before these, whose times are dropped.
        """
        names = list(self.works)
        for index in range(-warm_ups, rounds):
            shift = index % len(names)
            for name in names[shift:] + names[:shift]:
                wall, cpu = self._time(self.works[name])
                if index >= 0:
                    self.wall[name].append(wall)
                    self.cpu[name].append(cpu)
        return self

    def _time(self, work: Work) -> tuple[float, float]:
        if self.prepare is not None:
            self.prepare()
        self._wait()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self._wait()
        return time.perf_counter() - wall, time.process_time() - cpu

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def median(self, name: str) -> float:
        """Return the median wall time of a work in seconds."""
        return float(np.median(self.wall[name]))

    def row(
        self,
        name: str,
        case: str,
        above: Sequence[str],
        below: Sequence[str],
        *,
        goal: Goal | None,
        has_cpu_time: bool = True,
        remarks: dict[str, float] | None = None,
    ) -> Row:
        """Return the ratio of the summed times of some works to those of others.

        Args:
            name: Of the row.
            case: What exactly was measured.
            above: Names of the works above the line.
            below: Names of the works below the line.
            goal: What the ratio shall be.
            has_cpu_time: Whether all the work was done in this process.
            remarks: Further facts, by name.
        """
        over, under = _summed(self.wall, above), _summed(self.wall, below)
        low, high = bootstrap_interval(over / under)
        cpu = float(np.median(_summed(self.cpu, above) / _summed(self.cpu, below)))
        return Row(
            name=name,
            case=case,
            above=" + ".join(above),
            below=" + ".join(below),
            above_ms=1e3 * float(np.median(over)),
            below_ms=1e3 * float(np.median(under)),
            ratio=float(np.median(over / under)),
            low=low,
            high=high,
            cpu_ratio=cpu if has_cpu_time else None,
            rounds=len(over),
            goal=goal,
            remarks=remarks or {},
        )


def _summed(times: dict[str, list[float]], names: Sequence[str]) -> NDArray[np.float64]:
    return np.array([times[name] for name in names]).sum(axis=0)  # [rounds]


def bootstrap_interval(
    values: NDArray[np.float64], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a median, by drawing the values with replacement.

    Args:
        values: [n], at least one.
        resamples: Draws.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.choice(values, size=(resamples, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(low), float(high)

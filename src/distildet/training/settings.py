"""Settings of one training stage, as the loop needs them."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, Literal

from distildet.ops.precision import Precision

OptimizerName = Literal["adamw", "sgd"]
Decay = Literal["cosine", "constant"]
TermDecay = Literal["none", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class TermSettings:
    """One distillation loss of a stage.

    Args:
        loss: Registered name.
        weight: Factor of the loss, at least 0; "auto" finds it in the first steps. With 0 there
            is no term.
        share: With "auto": the weighted term as a multiple of the detector's own loss.
        start: Share of the stage after which the term begins.
        stop: Share of the stage at which it ends.
        decay: Course of the factor from `start` (1) to `stop` (0), or "none".
        options: Of the loss, typed.
    """

    loss: str
    weight: float | Literal["auto"] = 1.0
    share: float = 1.0
    start: float = 0.0
    stop: float = 1.0
    decay: TermDecay = "none"
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How one stage trains.

    Args:
        seed: Of the run.
        stage: Name of the stage; its random numbers depend on it.
        steps: Optimiser steps, at least 1.
        accumulate: Micro-batches that a batch is split into.
        optimizer: "adamw" or "sgd".
        lr: Peak learning rate.
        backbone_lr_factor: The backbone's rate is lr times this.
        weight_decay: Of weights with two or more axes; biases and norms have none.
        momentum: Of SGD; first beta of AdamW.
        warmup: Fraction of the stage in which the rate rises linearly from 0.
        decay: Course of the rate after the warm-up.
        ema: Decay of the moving average of the weights per step; 0 switches it off.
        clip: Largest gradient norm; 0 switches clipping off.
        batch_norm: "frozen" keeps BatchNorm in eval mode.
        evaluations: How often the student is evaluated, evenly spread, the last at the end.
        checkpoint_every: Steps between checkpoints.
        precision: What student and teacher compute in.
        terms: Distillation losses beside the detector's own.
    """

    seed: int
    stage: str
    steps: int
    accumulate: int = 1
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    backbone_lr_factor: float = 1.0
    weight_decay: float = 0.02
    momentum: float = 0.9
    warmup: float = 0.1
    decay: Decay = "cosine"
    ema: float = 0.998
    clip: float = 10.0
    batch_norm: Literal["train", "frozen"] = "train"
    evaluations: int = 4
    checkpoint_every: int = 200
    precision: Precision = "fp32"
    terms: tuple[TermSettings, ...] = ()

    def evaluation_steps(self) -> frozenset[int]:
        """Return the numbers of finished steps after which the student is evaluated."""
        return frozenset(
            round(self.steps * (i + 1) / self.evaluations) for i in range(self.evaluations)
        )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        # Options may hold tuples and paths; what is compared later has been through JSON.
        settings: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return settings

    def changes_from(self, old: Mapping[str, Any]) -> list[str]:
        """Return one line for each setting that differs from what `as_json` once returned.

        Args:
            old: A setting that it lacks, since there was no such choice yet, had the value that is
                the default today.
        """
        new, old = self.as_json(), _completed(TrainSettings, old)
        old["terms"] = [_completed(TermSettings, term) for term in old["terms"]]
        return [
            f"{name} was {old.get(name)!r} and is {new.get(name)!r}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]


def _completed(settings: type, noted: Mapping[str, Any]) -> dict[str, Any]:
    """Return noted settings with the default of each that they lack."""
    defaults = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory()
        for one in fields(settings)
        if one.default is not MISSING or one.default_factory is not MISSING
    }
    return {**noted, **{name: one for name, one in defaults.items() if name not in noted}}

"""Optimisers with their parameter groups, and the course of the learning rate."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from distildet.detectors.base import Detector
from distildet.training.settings import TrainSettings


def build_optimizer(
    detector: Detector, settings: TrainSettings, *, projectors: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Build the optimiser of a stage; frozen parameters are left out.

    Args:
        detector: The student.
        settings: Optimiser, rates, decay.
        projectors: Parameters trained beside the student, as those of its neck and head.

    Returns:
        An optimiser whose groups carry `lr_factor`; `set_learning_rate` uses it.
    """
    in_backbone = {id(parameter) for parameter in detector.backbone_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in (*detector.parameters(), *projectors):
        if parameter.requires_grad:
            # Norm scales and biases have one axis; decaying them only shrinks the signal.
            key = (id(parameter) in in_backbone, parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    arguments = [
        {
            "params": parameters,
            "lr_factor": settings.backbone_lr_factor if is_backbone else 1.0,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (is_backbone, decays), parameters in groups.items()
    ]
    # Fused: one pass over each weight, three times as fast on a CPU.
    if settings.optimizer == "sgd":
        return torch.optim.SGD(arguments, lr=settings.lr, momentum=settings.momentum, fused=True)
    return torch.optim.AdamW(
        arguments, lr=settings.lr, betas=(settings.momentum, 0.999), fused=True
    )


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the rate of a step: linear warm-up, then cosine to 0 or constant.

    Args:
        step: Number of finished steps, from 0.
        settings: Peak rate, length, warm-up and decay.
    """
    warmup_steps = round(settings.warmup * settings.steps)
    if step < warmup_steps:
        return settings.lr * (step + 1) / warmup_steps
    if settings.decay == "constant":
        return settings.lr
    progress = (step - warmup_steps) / max(1, settings.steps - warmup_steps)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of every group, each times its own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]

"""Reliability of every object of a data set, clear and spoiled, as the loss computes it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distildet.data.dataset import Dataset
from distildet.data.fixed_views import view_batches
from distildet.data.loader import Stream, TrainingSample, draw_view, targets_from_annotations
from distildet.data.workers import Batch
from distildet.detectors.base import Detector
from distildet.losses.base import Observation
from distildet.losses.global_knowledge import GlobalKnowledge
from distildet.recipes.observed_images import ObservedViews, observed_draws
from distildet.structures import FEATURES_NECK, Targets
from reliability_steps.spoiling import Half, Spoil

BATCH_SIZE = 16
MEAN = "mean"
CLEAR = "clear"
HALVES: tuple[Half, Half] = ("left", "right")
Seen = tuple[Observation, Observation]
"""Of the student and of the teacher."""
Reliabilities = dict[str, dict[str, Tensor]]
"""Loss -> level, or their mean -> [n] of all objects."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A student and its teacher, which know the same classes, in eval mode."""

    student: Detector
    teacher: Detector

    @torch.no_grad()
    def observe(self, batch: Batch, loss: GlobalKnowledge) -> Seen:
        """Return what a loss sees of both."""
        images, targets = batch
        own, guide = (
            loss.observe(detector(images, want=frozenset({FEATURES_NECK})), images, targets)
            for detector in (self.student, self.teacher)
        )
        return own, guide


def fill(
    losses: Mapping[str, GlobalKnowledge], pair: Pair, dataset: Dataset, *, seed: int
) -> dict[str, float]:
    """Choose the prototypes of losses from a data set, as a train stage does before its first step.

    Returns:
        By loss the number of prototypes, mean over levels.
    """
    one = next(iter(losses.values()))
    stream = Stream(name="labeled", samples=tuple(_samples(dataset, pair)))
    images = ObservedViews(
        draws=observed_draws([stream], [one.preparation], seed=seed, stage="reliability"),
        image_size=pair.student.spec.image_size,
        batch_size=BATCH_SIZE,
        workers=0,
    )
    # What is observed depends on the levels alone, which all have in common.
    seen = [pair.observe(batch, one) for batch in images.batches(range(images.num_batches))]
    numbers = {}
    for name, loss in losses.items():
        torch.manual_seed(seed)
        found = loss.prepare([own for own, _ in seen], [guide for _, guide in seen])
        numbers[name] = sum(found["prototypes"].values()) / len(found["prototypes"])
    return numbers


def reliabilities(
    losses: Mapping[str, GlobalKnowledge],
    pair: Pair,
    dataset: Dataset,
    spoilings: Mapping[str, Spoil],
    *,
    seed: int,
) -> dict[str, Reliabilities]:
    """Return by spoiling the reliability of all objects.

    Each object is spoiled in an image of its own, so that the others stay clear.

    Args:
        losses: With prototypes.
        pair: The detectors.
        dataset: Objects are numbered image by image.
        spoilings: By name; not "clear", which is told first.
        seed: Says which half of each object is meant.
    """
    ways: dict[str, Spoil | None] = {CLEAR: None, **spoilings}
    found: dict[str, dict[str, dict[str, list[Tensor]]]] = {
        way: {name: {level: [] for level in [*loss.levels, MEAN]} for name, loss in losses.items()}
        for way in ways
    }
    one = next(iter(losses.values()))
    generator = torch.Generator().manual_seed(seed)
    for batch in _single_objects(dataset, pair):
        numbers = torch.randint(2, [len(batch[1])], generator=generator).tolist()
        halves = [HALVES[number] for number in numbers]
        for way, spoil in ways.items():
            seen = pair.observe(batch if spoil is None else _spoiled(batch, spoil, halves), one)
            for name, loss in losses.items():
                for level, values in _by_level(loss, seen).items():
                    found[way][name][level].append(values)
    return {
        way: {
            name: {level: torch.cat(values) for level, values in levels.items()}
            for name, levels in by_loss.items()
        }
        for way, by_loss in found.items()
    }


def _by_level(loss: GlobalKnowledge, seen: Seen) -> dict[str, Tensor]:
    own, guide = seen
    found = {
        level: loss.banks[level].compare(own[level], guide[level], own["labels"]).reliability
        for level in loss.levels
    }
    return {**found, MEAN: torch.stack(list(found.values())).mean(0)}


def _single_objects(dataset: Dataset, pair: Pair) -> Iterator[Batch]:
    """Yield every object in an image of its own, in batches."""
    draws = [
        draw_view("clear", 0, replace(sample, targets=one), seed=0)
        for sample in _samples(dataset, pair)
        for one in _apart(sample)
    ]
    parts = [draws[start : start + BATCH_SIZE] for start in range(0, len(draws), BATCH_SIZE)]
    size = pair.student.spec.image_size
    for images, targets in view_batches(parts, image_size=size, augmentation=None, workers=0):
        # In the memory layout of a training step: others round in another way.
        yield images.to(torch.device("cpu")), targets


def _apart(sample: TrainingSample) -> Iterator[Targets]:
    targets = sample.targets
    for place in range(len(targets.labels)):
        chosen = slice(place, place + 1)
        yield replace(
            targets,
            boxes=targets.boxes[chosen],
            labels=targets.labels[chosen],
            weights=targets.weights[chosen],
        )


def _spoiled(batch: Batch, spoil: Spoil, halves: Sequence[Half]) -> Batch:
    images, targets = batch
    pixels, spoiled = images.pixels.clone(), []
    for place, (one, half) in enumerate(zip(targets, halves, strict=True)):
        height, width = images.sizes[place].tolist()
        view, box = spoil(images.pixels[place, :, :height, :width], one.boxes[0], half)
        pixels[place, :, :height, :width] = view
        spoiled.append(replace(one, boxes=box[None]))
    return replace(images, pixels=pixels), tuple(spoiled)


def _samples(dataset: Dataset, pair: Pair) -> Iterator[TrainingSample]:
    num_classes = len(pair.student.spec.classes)
    for sample in dataset.samples:
        if sample.annotations is not None:
            targets = targets_from_annotations(sample.annotations, num_classes)
            yield TrainingSample(sample=sample, targets=targets)

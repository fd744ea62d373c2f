"""The images that the losses of a stage look at beforehand: a fixed choice."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distildet.data.fixed_views import view_batches
from distildet.data.headers import probe_size
from distildet.data.loader import Draw, Stream, TrainingSample, draw_view
from distildet.data.workers import Batch
from distildet.losses.base import Preparation
from distildet.ops.shared_work import on_first
from distildet.training.loop import seed_everything

OBSERVED = "observed"
"""Begins the names of the views, of which no teacher cache holds one."""


@dataclass(frozen=True, kw_only=True)
class ObservedViews:
    """Whole, unchanged images with some of their objects, in batches that never change.

    Args:
        draws: One an image; its targets are the observed objects alone.
        image_size: Longer side of an image.
        batch_size: Images of a batch.
        workers: Number of processes that decode; 0 decodes in this one.
    """

    draws: Sequence[Draw]
    image_size: int
    batch_size: int
    workers: int

    @property
    def num_batches(self) -> int:
        """How many batches they come in."""
        return -(-len(self.draws) // self.batch_size)

    def batches(self, numbers: Sequence[int]) -> Iterator[Batch]:
        """Yield the batches of these numbers.

        Raises:
            DataError: An image cannot be decoded.
            ResourceError: A worker process died.
        """
        parts = [
            self.draws[number * self.batch_size : (number + 1) * self.batch_size]
            for number in numbers
        ]
        return view_batches(
            parts, image_size=self.image_size, augmentation=None, workers=self.workers
        )


def observed_draws(
    streams: Sequence[Stream], preparations: Sequence[Preparation], *, seed: int, stage: str
) -> list[Draw]:
    """Return as many images, and as many objects of each class, as the losses of a stage want.

    Images come in an order drawn from seed and stage. For each loss the first objects of each class
    in this order count that are large enough for it, and the first images; an image that is not
    among these and has no such object is left out, and so is one that came in another stream. Where
    no loss wants any there is one image without objects.

    Every process of a run comes here. That of rank 0 reads the size of an image from its file if it
    has an object of a class of which a loss wants more that are large enough.

    Args:
        streams: Of the stage.
        preparations: Of its losses.
        seed: Of the run.
        stage: Name of the stage.

    Raises:
        DataError: The header of an image cannot be read.
    """
    tallies = [_Tally(preparation) for preparation in preparations]
    num_images = max(preparation.images for preparation in preparations)
    samples = {
        sample.sample.id: sample for stream in reversed(streams) for sample in stream.samples
    }
    listed = [samples[name] for name in sorted(samples)]
    seed_everything(seed, f"{stage} observed images", 0)
    order = torch.randperm(len(listed)).tolist()
    # In one process: a file that another cannot read would leave the others waiting for it.
    kept_by_place = on_first(
        lambda: {
            place: kept
            for number, place in enumerate(order)
            if (kept := _kept(listed[place], tallies)) or number < num_images
        }
    )
    shown = kept_by_place or {0: []}
    return [_draw_of(listed[place], kept, seed=seed) for place, kept in shown.items()]


class _Tally:
    """How many objects of each class there are for one loss."""

    def __init__(self, preparation: Preparation) -> None:
        self.least_side = preparation.least_side
        self._most = preparation.objects
        self._counts: Counter[int] = Counter()

    def wants(self, label: int) -> bool:
        """Return whether there are fewer of a class than the loss wants."""
        return self._counts[label] < self._most

    def add(self, label: int) -> None:
        """Count one more of a class."""
        self._counts[label] += 1


def _kept(sample: TrainingSample, tallies: Sequence[_Tally]) -> list[int]:
    """Return and count the objects of an image that a loss wants."""
    labels = sample.targets.labels.tolist()
    # Of most images of a large data set nothing is wanted any more; these are not opened.
    wanting = [tally for tally in tallies if any(map(tally.wants, labels))]
    if not wanting:
        return []
    has_least_side = any(tally.least_side > 0 for tally in wanting)
    sides = _relative_sides(sample).tolist() if has_least_side else [math.inf] * len(labels)
    kept = []
    for index, (label, side) in enumerate(zip(labels, sides, strict=True)):
        suited = [tally for tally in wanting if side > tally.least_side]
        if any(tally.wants(label) for tally in suited):
            kept.append(index)
            for tally in suited:
                tally.add(label)
    return kept


def _relative_sides(sample: TrainingSample) -> Tensor:
    """Return [n], the shorter side of each object as a share of the image's shorter side."""
    # In float32, a side just as large as asked for may come out larger.
    boxes = sample.targets.boxes.double()
    return (boxes[:, 2:] - boxes[:, :2]).amin(1) / min(probe_size(sample.sample.path))


def _draw_of(sample: TrainingSample, kept: list[int], *, seed: int) -> Draw:
    """Return the whole image, with these of its objects."""
    targets = sample.targets.chosen(torch.tensor(kept, dtype=torch.int64))
    return draw_view(OBSERVED, 0, replace(sample, targets=targets), seed=seed)

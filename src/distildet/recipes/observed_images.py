"""The images that the losses of a stage look at beforehand: a fixed choice of its objects."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from distildet.data.fixed_views import view_batches
from distildet.data.loader import Draw, Stream, draw_view
from distildet.data.workers import Batch
from distildet.losses.base import Preparation
from distildet.training.loop import seed_everything


@dataclass(frozen=True, kw_only=True)
class ChosenImages:
    """Whole, unchanged images with some of their objects, in batches that never change.

    Args:
        draws: One an image; its targets are the chosen objects alone.
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


def choose_objects(
    streams: Sequence[Stream], preparations: Sequence[Preparation], *, seed: int, stage: str
) -> list[Draw]:
    """Return images that have, of each class, as many objects as the losses of a stage want.

    Images come in an order drawn from seed and stage. Of each class the first objects in this order
    count; an image without any of these is left out, and so is one that came in another stream.
    Where no image has an object there is one image without any.

    Args:
        streams: Of the stage.
        preparations: Of its losses.
        seed: Of the run.
        stage: Name of the stage.
    """
    most = max(preparation.instances for preparation in preparations)
    samples = {
        sample.sample.id: (stream.name, sample)
        for stream in reversed(streams)
        for sample in stream.samples
    }
    listed = [samples[name] for name in sorted(samples)]
    seed_everything(seed, f"{stage} observed images", 0)
    counts: dict[int, int] = {}
    draws = []
    for place in torch.randperm(len(listed)).tolist():
        name, sample = listed[place]
        kept = []
        for index, label in enumerate(sample.targets.labels.tolist()):
            if counts.get(label, 0) < most:
                counts[label] = counts.get(label, 0) + 1
                kept.append(index)
        if kept:
            targets = replace(
                sample.targets,
                boxes=sample.targets.boxes[kept],
                labels=sample.targets.labels[kept],
                weights=sample.targets.weights[kept],
            )
            draws.append(draw_view(name, 0, replace(sample, targets=targets), seed=seed))
    return draws or [draw_view(listed[0][0], 0, listed[0][1], seed=seed)]

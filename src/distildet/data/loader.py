"""Batches for training, as pure functions of the step.

No state of a loader is ever stored. Which samples a step takes and how each is varied follows
from the seed and the step alone, so that training continues exactly after an interruption, with
any number of workers.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.utils.data import Dataset as TorchDataset

from distildet.data.dataset import Annotations, Sample
from distildet.data.pixel_cache import PixelCache
from distildet.data.transforms import (
    Augmentation,
    View,
    ViewPlan,
    plan_augmented,
    plan_fit,
    view_file,
    view_picture,
    view_targets,
)
from distildet.data.workers import Batch, Packed, load_steps, pack
from distildet.errors import ConfigError, DistildetError
from distildet.ops.processes import largest_of_processes, num_processes
from distildet.structures import ImageBatch, Origin, Targets

PADDING_MULTIPLE = 32
"""Height and width of a batch are multiples of it, the stride of the coarsest backbone level."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSample:
    """One image and what it teaches.

    Args:
        sample: The image.
        targets: With boxes in the image frame; they are mapped when the view is drawn.
        cache: Where the decoded image is kept; None decodes the file for each view.
    """

    sample: Sample
    targets: Targets
    cache: PixelCache | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream:
    """Samples that training goes through again and again, each pass in another order.

    Args:
        name: Part of what seeds the order; unique within a stage.
        samples: At least one.

    Raises:
        ConfigError: There is no sample.
    """

    name: str
    samples: tuple[TrainingSample, ...]

    def __post_init__(self) -> None:
        """Refuse a stream that no batch can be drawn from."""
        if not self.samples:
            raise ConfigError(
                f"The stream {self.name!r} has no images. Take it out of the stage, or check that "
                "its images, list or pseudo-labels are not empty."
            )


def targets_from_annotations(
    annotations: Annotations, num_classes: int, origin: Origin = "human"
) -> Targets:
    """Turn annotations into targets in the image frame.

    Args:
        annotations: Crowd regions become regions to ignore.
        num_classes: Length of the class list; all classes count as looked for.
        origin: Who drew the boxes.
    """
    is_crowd = torch.tensor(annotations.crowd)
    boxes = torch.tensor(annotations.boxes).float()
    labels = torch.tensor(annotations.labels)[~is_crowd]
    return Targets(
        boxes=boxes[~is_crowd],
        labels=labels,
        weights=torch.ones(len(labels)),
        ignore=boxes[is_crowd],
        known_classes=torch.ones(num_classes, dtype=torch.bool),
        origin=origin,
    )


def collate(
    views: Sequence[View],
    ids: Sequence[str],
    *,
    view_ids: Sequence[str] = (),
    side: int | None = None,
) -> ImageBatch:
    """Bring views together, padded right and bottom with zeros.

    Args:
        views: At least one.
        ids: The sample ids in the same order.
        view_ids: Names of the views in the same order, where they have any.
        side: Of a square that holds every view; None for a batch as small as it can be.

    Returns:
        A batch whose height and width are the smallest multiples of 32 that hold every view, or
        the square.
    """
    sizes = torch.tensor([view.size for view in views])  # [b, 2]
    largest = sizes.amax(0) if side is None else torch.tensor([side, side])
    height, width = (-(-largest // PADDING_MULTIPLE) * PADDING_MULTIPLE).tolist()
    pixels = torch.zeros(len(views), 3, height, width)
    for padded, view in zip(pixels, views, strict=True):
        padded[:, : view.size[0], : view.size[1]] = view.pixels
    return ImageBatch(
        pixels=pixels,
        sizes=sizes,
        image_sizes=torch.tensor([view.image_size for view in views]),
        image_to_batch=torch.stack([view.image_to_batch for view in views]),
        image_ids=tuple(ids),
        view_ids=tuple(view_ids),
    )


def training_batches(
    streams: Sequence[tuple[Stream, int]],
    *,
    seed: int,
    image_size: int,
    augmentation: Augmentation | None,
    start_step: int,
    stop_step: int,
    workers: int,
    num_views: int | None = None,
    share: slice = slice(None),
) -> Iterator[Batch]:
    """Yield the batches of the steps from `start_step` up to, without, `stop_step`.

    Step s takes the positions s * count to (s + 1) * count - 1 of each stream. Position p of a
    stream of n samples lies in pass p // n, whose order is a permutation seeded by (seed, stream,
    pass); batches may span passes. The random numbers of a view are seeded by (seed, stream,
    pass, sample id).

    Args:
        streams: Each with the number of its images in a batch, at least 1.
        seed: Seed of orders and views.
        image_size: Largest side of a view.
        augmentation: How far views vary; None shows every image whole and unchanged.
        start_step: First step.
        stop_step: Step after the last one.
        workers: Number of processes that decode; 0 decodes in this one.
        num_views: How many views an image has, at least 1: pass p shows view p modulo this number
            on a square as large as any view can be, so that a detector says the same about a view
            whenever it comes. None draws another view in each pass.
        share: Which images of each batch are loaded, of those of all streams one after the other;
            they are padded to the canvas that all processes of the run need.

    Raises:
        DataError: An image cannot be decoded.
        ResourceError: A worker process died.
    """
    steps = _TrainingSteps(
        streams=tuple(streams),
        seed=seed,
        image_size=image_size,
        augmentation=augmentation,
        num_views=num_views,
        share=share,
    )
    for batch, targets in load_steps(steps, range(start_step, stop_step), workers):
        yield _on_common_canvas(batch), targets


def _on_common_canvas(batch: ImageBatch) -> ImageBatch:
    """Pad a share of a batch as the whole batch would be: results near borders depend on it."""
    if num_processes() == 1:
        return batch
    canvas = torch.tensor(batch.pixels.shape[2:])
    below, right = (largest_of_processes(canvas) - canvas).tolist()
    if below == right == 0:
        return batch
    pixels = F.pad(batch.pixels, (0, right, 0, below))
    # Only pinned memory goes to a GPU without waiting, and what is padded is a copy.
    return replace(batch, pixels=pixels.pin_memory() if batch.pixels.is_pinned() else pixels)


class Draw(NamedTuple):
    """A sample, and the seed and name of one of its views."""

    training_sample: TrainingSample
    view_seed: int
    view_id: str


def draw_view(stream: str, number: int, training_sample: TrainingSample, *, seed: int) -> Draw:
    """Return a view of a sample, by the name of its stream and the number of the view."""
    sample_id = training_sample.sample.id
    return Draw(
        training_sample,
        _derived_seed(seed, stream, number, sample_id),
        f"{stream}/{number}/{sample_id}",
    )


def render_view(draw: Draw, image_size: int, augmentation: Augmentation | None) -> View:
    """Decode the image of a draw and show it as its seed says.

    Args:
        draw: What to show.
        image_size: Largest side of the view.
        augmentation: How far views vary; None shows the image whole and unchanged.

    Raises:
        DataError: The image cannot be decoded.
    """
    sample, targets = draw.training_sample.sample, draw.training_sample.targets
    cache = draw.training_sample.cache

    def plan(size: tuple[int, int]) -> ViewPlan:
        if augmentation is None:
            return plan_fit(size, image_size)
        generator = torch.Generator().manual_seed(draw.view_seed)
        return plan_augmented(size, targets.boxes, image_size, augmentation, generator)

    if cache is None:
        return view_file(sample.path, plan)
    picture = cache.picture(sample.path)
    return view_picture(picture, plan(picture.size))


@lru_cache(maxsize=8)
def pass_order(seed: int, stream: str, pass_index: int, num_samples: int) -> list[int]:
    """Return the places of a stream's samples in the order in which a pass shows them.

    Args:
        seed: Of the orders.
        stream: Name of the stream.
        pass_index: Number of the pass, from 0.
        num_samples: Of the stream.
    """
    generator = torch.Generator().manual_seed(_derived_seed(seed, stream, pass_index))
    order: list[int] = torch.randperm(num_samples, generator=generator).tolist()
    return order


def _derived_seed(*parts: int | str) -> int:
    # repr keeps the parts apart; Python's own hash differs from process to process.
    digest = hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big")


@dataclass(frozen=True, kw_only=True)
class _TrainingSteps(TorchDataset[Any]):
    """Step -> batch of training."""

    streams: tuple[tuple[Stream, int], ...]
    seed: int
    image_size: int
    augmentation: Augmentation | None
    num_views: int | None
    share: slice

    def __getitem__(self, step: int) -> Packed | DistildetError:
        try:
            return pack(self._batch(step))
        except DistildetError as error:
            # Raised in a worker, it would reach the user with a traceback in its message.
            return error

    def _batch(self, step: int) -> Batch:
        draws = [draw for stream, count in self.streams for draw in self._draw(stream, count, step)]
        draws = draws[self.share]
        views = [render_view(draw, self.image_size, self.augmentation) for draw in draws]
        pairs = zip(draws, views, strict=True)
        targets = tuple(view_targets(draw.training_sample.targets, view) for draw, view in pairs)
        ids = [draw.training_sample.sample.id for draw in draws]
        if self.num_views is None:
            return collate(views, ids), targets
        view_ids = [draw.view_id for draw in draws]
        return collate(views, ids, view_ids=view_ids, side=self.image_size), targets

    def _draw(self, stream: Stream, count: int, step: int) -> Iterator[Draw]:
        num_samples = len(stream.samples)
        for position in range(step * count, (step + 1) * count):
            pass_index, place = divmod(position, num_samples)
            order = pass_order(self.seed, stream.name, pass_index, num_samples)
            number = pass_index if self.num_views is None else pass_index % self.num_views
            yield draw_view(stream.name, number, stream.samples[order[place]], seed=self.seed)

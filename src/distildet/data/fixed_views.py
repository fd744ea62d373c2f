"""All views of a stage whose images have a fixed number of views, in an order of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset as TorchDataset

from distildet.data.loader import Draw, Stream, collate, draw_view, pass_order, render_view
from distildet.data.transforms import Augmentation, view_targets
from distildet.data.workers import Batch, Packed, load_steps, pack
from distildet.errors import DistildetError


def fixed_views(
    streams: Sequence[tuple[Stream, int]], *, seed: int, steps: int, num_views: int
) -> list[Draw]:
    """Return every view that `training_batches` shows with the same arguments, each once.

    Args:
        streams: Each with the number of its images in a batch.
        seed: Of the views.
        steps: Of the stage.
        num_views: Views of an image, at least 1.

    Returns:
        By stream, then number of the view, then sample.
    """
    return [
        draw_view(stream.name, number, stream.samples[place], seed=seed)
        for stream, count in streams
        for number, place in _shown(stream, count * steps, seed=seed, num_views=num_views)
    ]


def num_passes(streams: Sequence[tuple[Stream, int]], *, steps: int) -> float:
    """Return how often training goes through the stream that comes most often.

    Args:
        streams: Each with the number of its images in a batch.
        steps: Of the stage.
    """
    return max(count * steps / len(stream.samples) for stream, count in streams)


def _shown(
    stream: Stream, num_images: int, *, seed: int, num_views: int
) -> Iterator[tuple[int, int]]:
    """Yield number of the view and place of the sample of all that so many images show."""
    num_samples = len(stream.samples)
    whole, rest = divmod(num_images, num_samples)
    for number in range(min(num_views, whole)):
        yield from ((number, place) for place in range(num_samples))
    if whole < num_views:
        order = pass_order(seed, stream.name, whole, num_samples)
        yield from ((whole, place) for place in sorted(order[:rest]))


def view_batches(
    batches: Sequence[Sequence[Draw]],
    *,
    image_size: int,
    augmentation: Augmentation | None,
    workers: int,
) -> Iterator[Batch]:
    """Yield batches of views and their targets, each view as `training_batches` shows it.

    Args:
        batches: What to show together, batch by batch.
        image_size: Largest side of a view.
        augmentation: How far views vary; None shows every image whole and unchanged.
        workers: Number of processes that decode; 0 decodes in this one.

    Raises:
        DataError: An image cannot be decoded.
        ResourceError: A worker process died.
    """
    steps = _ViewSteps(batches=batches, image_size=image_size, augmentation=augmentation)
    return load_steps(steps, range(len(batches)), workers)


@dataclass(frozen=True, kw_only=True)
class _ViewSteps(TorchDataset[Any]):
    """Step -> batch of views."""

    batches: Sequence[Sequence[Draw]]
    image_size: int
    augmentation: Augmentation | None

    def __getitem__(self, step: int) -> Packed | DistildetError:
        chosen = self.batches[step]
        try:
            views = [render_view(draw, self.image_size, self.augmentation) for draw in chosen]
        except DistildetError as error:
            return error
        batch = collate(
            views,
            [draw.training_sample.sample.id for draw in chosen],
            view_ids=[draw.view_id for draw in chosen],
            side=self.image_size,
        )
        pairs = zip(chosen, views, strict=True)
        targets = tuple(view_targets(draw.training_sample.targets, view) for draw, view in pairs)
        return pack((batch, targets))

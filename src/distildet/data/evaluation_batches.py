"""Batches of whole, unchanged images, for evaluation and labeling."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import Dataset as TorchDataset

from distildet.data.dataset import Sample
from distildet.data.decode import decode_image
from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.data.workers import Packed, load_steps, pack
from distildet.errors import DistildetError
from distildet.structures import ImageBatch


def evaluation_batches(
    samples: Sequence[Sample], *, image_size: int, batch_size: int, workers: int
) -> Iterator[ImageBatch]:
    """Yield all samples in order, whole and unchanged; the last batch may be smaller.

    Args:
        samples: Their annotations are not used.
        image_size: Longer side of each view.
        batch_size: Number of images in a batch.
        workers: Number of processes that decode; 0 decodes in this one.

    Raises:
        DataError: An image cannot be decoded.
        ResourceError: A worker process died.
    """
    steps = _EvaluationSteps(samples=tuple(samples), image_size=image_size, batch_size=batch_size)
    num_steps = -(-len(samples) // batch_size)
    return (batch for batch, _ in load_steps(steps, range(num_steps), workers))


@dataclass(frozen=True, kw_only=True)
class _EvaluationSteps(TorchDataset[Any]):
    """Step -> batch of evaluation."""

    samples: tuple[Sample, ...]
    image_size: int
    batch_size: int

    def __getitem__(self, step: int) -> Packed | DistildetError:
        chosen = self.samples[step * self.batch_size : (step + 1) * self.batch_size]
        try:
            views = [fit_view(decode_image(sample.path), self.image_size) for sample in chosen]
            return pack((collate(views, [sample.id for sample in chosen]), ()))
        except DistildetError as error:
            return error

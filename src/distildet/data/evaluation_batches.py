"""Batches of whole, unchanged images of like shape, for evaluation and labeling."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.utils.data import Dataset as TorchDataset

from distildet.data.dataset import Sample
from distildet.data.headers import probe_size
from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.data.workers import Packed, load_steps, pack
from distildet.errors import DataError, ResourceError
from distildet.ops.shared_work import share_out
from distildet.specs import ViewSize
from distildet.structures import ImageBatch

Plan: TypeAlias = Sequence[Sequence[Sample]]
"""The samples of each batch."""

_NOTHING = ImageBatch(
    pixels=torch.zeros(0, 3, 1, 1),
    sizes=torch.zeros(0, 2, dtype=torch.int64),
    image_sizes=torch.zeros(0, 2, dtype=torch.int64),
    image_to_batch=torch.zeros(0, 3, 3, dtype=torch.float64),
    image_ids=(),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedBatch:
    """What became of a planned batch.

    Args:
        images: Those that can be decoded, in the order of the plan.
        faults: By sample id why the others cannot.
    """

    images: ImageBatch
    faults: Mapping[str, DataError]

    def raise_if_faulty(self) -> None:
        """Refuse a batch that misses an image.

        Raises:
            DataError: Why its first missing image cannot be decoded.
        """
        for fault in self.faults.values():
            raise fault


def plan_batches(samples: Sequence[Sample], batch_size: int) -> list[tuple[Sample, ...]]:
    """Put images of like shape together, so that batches have little padding.

    Images go from wide to high, those of one shape in their order; the shape stands in the header
    of the file. The plan follows from the files and the batch size alone. Several processes share
    the reading; all must come here.

    Args:
        samples: The images.
        batch_size: Images a batch; the last one may be smaller.

    Returns:
        Batches in which every sample is once. Unreadable files are in the last ones.
    """
    ratios, _ = share_out(samples, lambda share: map(_height_by_width, share))
    order = sorted(range(len(samples)), key=ratios.__getitem__)
    return [
        tuple(samples[place] for place in order[start : start + batch_size])
        for start in range(0, len(order), batch_size)
    ]


def _height_by_width(sample: Sample) -> float:
    try:
        height, width = probe_size(sample.path)
    except DataError:
        return float("inf")
    return height / width


def evaluation_batches(plan: Plan, *, image_size: ViewSize, workers: int) -> Iterator[LoadedBatch]:
    """Yield the planned batches in order; one without any readable image has a length of 0.

    Args:
        plan: As `plan_batches` returns it, or a part of it.
        image_size: Longer side of each view, or what else it is scaled to.
        workers: Number of processes that decode; 0 decodes in this one.

    Raises:
        ResourceError: A worker process died, or an image could be read only at a second attempt.
    """
    steps = _EvaluationSteps(plan=plan, image_size=image_size)
    loaded = load_steps(steps, range(len(plan)), workers)
    for samples, (images, _) in zip(plan, loaded, strict=True):
        there = set(images.image_ids)
        missing = [sample for sample in samples if sample.id not in there]
        faults = {sample.id: _why_missing(sample, image_size) for sample in missing}
        yield LoadedBatch(images=images, faults=faults)


def _why_missing(sample: Sample, image_size: ViewSize) -> DataError:
    """Return why an image cannot be decoded, by another attempt."""
    try:
        fit_view(sample.path, image_size)
    except DataError as error:
        return error
    raise ResourceError(
        f"{sample.path}: could not be decoded at first, and could a moment later. Look at the disk "
        "or network that it comes from, and run the same command again."
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _EvaluationSteps(TorchDataset[Any]):
    """Number of a planned batch -> the images of it that can be decoded."""

    plan: Plan
    image_size: ViewSize

    def __getitem__(self, step: int) -> Packed:
        views = {}
        for sample in self.plan[step]:
            try:
                views[sample.id] = fit_view(sample.path, self.image_size)
            except DataError:
                continue
        images = collate(list(views.values()), list(views)) if views else _NOTHING
        return pack((images, ()))

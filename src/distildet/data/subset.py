"""Parts and unions of data sets."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from distildet.data.dataset import Dataset, Sample
from distildet.data.faults import Faults
from distildet.errors import ConfigError, DataError

_TRAILING_NUMBER = re.compile(r"^(.*?)(\d+)$", re.DOTALL)
_LONGEST_RUN = 0.1


def take_fraction(
    dataset: Dataset, fraction: float, *, seed: int, scene_gap: int = 0
) -> tuple[Dataset, Dataset]:
    """Split a data set into a part to keep and the rest.

    One seeded order of scenes is built, and its first scenes are kept, so many that the number
    of images is nearest to the fraction. Therefore a smaller fraction lies inside a larger one of
    the same seed. The order starts with scenes that together show every class, rarest first;
    after that the class of which the smallest share is kept comes next.

    Args:
        dataset: What to split.
        fraction: Share of the images to keep, above 0 and at most 1; at least one scene is kept.
        seed: Seed of the order.
        scene_gap: Frames of a video are near copies of each other. Above 0, images of one folder
            whose names differ only in a trailing number, at most this far from the one before,
            are one scene and stay together. 0 makes every image its own scene. Only a scene
            longer than a tenth of the images of its main class is cut, into runs of consecutive
            frames, or a class filmed in one or two scenes could not be divided.

    Returns:
        The kept part and the rest, samples in the order of the data set. The lines of `dropped`
        go with the kept part.

    Raises:
        ConfigError: The fraction or the gap is out of range.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(
            f"fraction is {fraction}, accepted is above 0 and at most 1 "
            "(the share of the images whose labels are used)."
        )
    if scene_gap < 0:
        raise ConfigError(f"scene_gap is {scene_gap}, accepted is 0 (no scenes) and above.")
    if not dataset.samples:
        return dataset, replace(dataset, dropped=())
    shown = _shown_classes(dataset)  # [images, k + 1]
    whole = scenes(dataset.samples, scene_gap)
    shuffled = np.random.default_rng(seed).permutation(len(whole))
    runs = [run for position in shuffled for run in _cut(whole[position], shown)]
    order = _order_runs(np.stack([shown[run].sum(0) for run in runs]))
    sizes = np.cumsum([len(runs[position]) for position in order])
    num_kept = int(np.argmin(np.abs(sizes - fraction * len(dataset)))) + 1
    kept = {index for position in order[:num_kept] for index in runs[position]}
    samples = tuple(enumerate(dataset.samples))
    return (
        replace(dataset, samples=tuple(s for index, s in samples if index in kept)),
        replace(dataset, samples=tuple(s for index, s in samples if index not in kept), dropped=()),
    )


def without_annotations(dataset: Dataset) -> Dataset:
    """Return the same images as if nobody had looked at them, without classes."""
    samples = tuple(replace(sample, annotations=None) for sample in dataset.samples)
    return Dataset(samples=samples)


def merge(datasets: Sequence[Dataset]) -> Dataset:
    """Join data sets; an image file that occurs again is taken once, from the first.

    Args:
        datasets: Those with a class list must have the same one.

    Returns:
        All samples in order, with the class list if one of the data sets has one.

    Raises:
        DataError: Class lists differ, or one sample id stands for two files.
    """
    class_lists = {dataset.classes for dataset in datasets if dataset.classes is not None}
    if len(class_lists) > 1:
        listed = " and ".join(sorted(str(list(classes)) for classes in class_lists))
        raise DataError(
            f"Data sets with different class lists cannot be joined: {listed}. "
            "Bring the annotations to one list of classes in one order."
        )
    sample_by_file: dict[Path, Sample] = {}
    for dataset in datasets:
        for sample in dataset.samples:
            sample_by_file.setdefault(sample.path.resolve(), sample)
    path_by_id: dict[str, Path] = {}
    faults = Faults(Path("data"))
    for sample in sample_by_file.values():
        other = path_by_id.setdefault(sample.id, sample.path)
        if other != sample.path:
            faults.add(
                "a sample id must stand for one image; give the data sets a common root above both",
                f"{sample.id!r} is {other} and {sample.path}",
            )
    faults.raise_if_any()
    return Dataset(
        samples=tuple(sample_by_file.values()),
        classes=next(iter(class_lists), None),
        dropped=tuple(line for dataset in datasets for line in dataset.dropped),
    )


def scenes(samples: Sequence[Sample], gap: int) -> list[list[int]]:
    """Return the positions of the samples of each scene, a scene after the other.

    Args:
        samples: In any order; the number at the end of the file name counts.
        gap: Largest difference of the numbers of two neighbouring frames; 0 makes every sample a
            scene of its own.
    """
    if gap == 0:
        return [[index] for index in range(len(samples))]
    frames: dict[tuple[str, str], list[tuple[int, int]]] = {}
    found: list[list[int]] = []
    for index, sample in enumerate(samples):
        path = PurePosixPath(sample.id)
        match = _TRAILING_NUMBER.match(path.stem)
        if match is None:
            found.append([index])
        else:
            series = (str(path.parent), match[1])
            frames.setdefault(series, []).append((int(match[2]), index))
    for series_frames in frames.values():
        last = None
        for number, index in sorted(series_frames):
            if last is None or number - last > gap:
                found.append([])
            found[-1].append(index)
            last = number
    return found


def _shown_classes(dataset: Dataset) -> NDArray[np.int64]:
    """Return 1 where an image shows a class: [images, k + 1]; background is the last column."""
    labels = [
        sample.annotations.labels[~sample.annotations.crowd]
        if sample.annotations is not None
        else np.zeros(0, dtype=np.int64)
        for sample in dataset.samples
    ]
    num_classes = 1 + max((int(found.max()) for found in labels if len(found)), default=-1)
    shown = np.zeros((len(labels), num_classes + 1), dtype=np.int64)
    for index, found in enumerate(labels):
        shown[index, found if len(found) else num_classes] = 1
    return shown


def _cut(scene: Sequence[int], shown: NDArray[np.int64]) -> list[list[int]]:
    """Cut a scene that is long for its main class into even runs of consecutive frames."""
    main_class = int(shown[list(scene)].sum(0).argmax())
    longest = math.ceil(_LONGEST_RUN * int(shown[:, main_class].sum()))
    num_runs = math.ceil(len(scene) / longest)
    return [run.tolist() for run in np.array_split(np.array(scene), num_runs)]


def _order_runs(counts: NDArray[np.int64]) -> list[int]:
    """Return all runs, those first that together show every class evenly.

    Each turn belongs to the class of which the smallest share of images is taken so far, among
    equals to the rarest; it takes its next run in the given order. Background comes last among
    equals.

    Args:
        counts: [runs, k + 1], images that show each class, background last.
    """
    totals = counts.sum(0)
    turns = [*np.argsort(totals[:-1], kind="stable").tolist(), len(totals) - 1]
    queues = {k: np.flatnonzero(counts[:, k])[::-1].tolist() for k in turns}
    num_taken = np.zeros(len(totals))
    is_taken = np.zeros(len(counts), dtype=bool)
    order: list[int] = []
    while len(order) < len(counts):
        shares = num_taken / np.maximum(totals, 1)
        waiting = [k for k in turns if queues[k]]
        run = queues[min(waiting, key=shares.__getitem__)].pop()
        if not is_taken[run]:
            is_taken[run] = True
            order.append(run)
            num_taken += counts[run]
    return order

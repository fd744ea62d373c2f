"""Keeps images that are learned from apart from those that the metrics are measured on."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from distildet.data.dataset import Dataset
from distildet.data.duplicates import find_copies
from distildet.data.faults import MAX_EXAMPLES
from distildet.errors import DataError


def without_files(dataset: Dataset, excluded: Dataset) -> Dataset:
    """Return the dataset without the files of another one."""
    paths = _paths(excluded)
    samples = tuple(s for s in dataset.samples if s.path.resolve() not in paths)
    return replace(dataset, samples=samples)


def without_validation(unlabeled: Dataset, validation: Dataset) -> Dataset:
    """Leave validation images out of a pool, and say so in `dropped`.

    A pool is often the whole folder. Files with the bytes of a validation image are left out too.
    """
    kept = without_files(unlabeled, validation)
    lines = []
    if len(kept) < len(unlabeled):
        lines.append(
            f"{len(unlabeled) - len(kept)} unlabeled images are left out, since the metrics are "
            "measured on them (data.validation)"
        )
    copies = _copies(kept, validation)
    if copies:
        lines.append(
            f"{len(copies)} unlabeled images are left out, since images that the metrics are "
            f"measured on (data.validation) have the same bytes: {_pairs(copies)}"
        )
    samples = tuple(sample for sample in kept.samples if sample.id not in copies)
    return replace(kept, samples=samples, dropped=(*kept.dropped, *lines))


def refuse_measuring_on_training_images(
    labeled: Dataset, validation: Dataset, *, strict: bool
) -> list[str]:
    """Make sure that no validation image is a labeled one.

    Args:
        labeled: Images to learn from, hidden ones included.
        validation: Images to measure on.
        strict: Refuse files with the same bytes too, instead of a line about them.

    Returns:
        A line about labeled images that are kept although they are copies of validation images.

    Raises:
        DataError: Files are in both.
    """
    paths = _paths(validation)
    shared = [sample.id for sample in labeled.samples if sample.path.resolve() in paths]
    if shared:
        examples = ", ".join(map(repr, shared[:MAX_EXAMPLES]))
        raise DataError(
            f"data.validation and data.labeled share {len(shared)} images: {examples}. Metrics on "
            "images that were trained on show nothing; list different images in the two."
        )
    copies = _copies(labeled, validation)
    if copies and strict:
        raise DataError(
            f"data.labeled has {len(copies)} images with the same bytes as images of "
            f"data.validation: {_pairs(copies)}. Metrics on images that were trained on show "
            "nothing; take these out of one of the two, or read both without strict."
        )
    if not copies:
        return []
    return [
        f"{len(copies)} images of data.labeled are learned from, although images of "
        f"data.validation have the same bytes: {_pairs(copies)}. Metrics on images that were "
        "trained on show nothing; take these out of one of the two (strict: true refuses them)"
    ]


def _copies(dataset: Dataset, validation: Dataset) -> dict[str, str]:
    """Return sample id -> id of a validation image with the same bytes under another name."""
    id_by_path = {sample.path: sample.id for sample in validation.samples}
    found = find_copies((sample.path for sample in dataset.samples), id_by_path)
    return {
        sample.id: id_by_path[found[sample.path]]
        for sample in dataset.samples
        if sample.path in found
    }


def _pairs(copies: Mapping[str, str]) -> str:
    shown = [f"{name!r} = {original!r}" for name, original in copies.items()]
    return ", ".join(shown[:MAX_EXAMPLES]) + (" ..." if len(shown) > MAX_EXAMPLES else "")


def _paths(dataset: Dataset) -> set[Path]:
    return {sample.path.resolve() for sample in dataset.samples}

"""The datasets of a run: read once, named uniquely, with one class list."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distildet import artefacts
from distildet.classes import ClassList, map_names
from distildet.data.annotated import read_annotated, read_unlabeled
from distildet.data.dataset import Annotations, Dataset
from distildet.data.faults import raise_together
from distildet.data.names import one_line
from distildet.data.subset import merge, take_fraction, without_annotations
from distildet.errors import ClassMapError, DataError, similar_names
from distildet.recipes.overlap import (
    refuse_measuring_on_training_images,
    without_files,
    without_validation,
)
from distildet.recipes.schema import (
    AnnotatedSourceConfig,
    DataConfig,
    LabelStage,
    SourceConfig,
    TrainStage,
)

_LABELED = "data.labeled"
_VALIDATION = "data.validation"


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads.

    Args:
        classes: Of the student; None where neither labels nor validation name any.
        labeled: Images whose labels are used.
        hidden: Images whose labels `fraction` hides; the labels serve only to measure.
        unlabeled: Images without labels, hidden ones included where the recipe says so.
        validation: Images that the metrics are measured on.
        notes: One line for each kind of image that is left out as a whole or in part.
    """

    classes: ClassList | None
    labeled: Dataset | None
    hidden: Dataset | None
    unlabeled: Dataset | None
    validation: Dataset | None
    notes: tuple[str, ...] = ()

    def dataset(self, stream: str) -> Dataset:
        """Return the images of a stream: "labeled", "unlabeled" or "all", each file once."""
        parts = {
            "labeled": [self.labeled],
            "unlabeled": [self.unlabeled],
            "all": [self.labeled, self.unlabeled],
        }[stream]
        return merge([part for part in parts if part is not None])

    def sizes(self) -> dict[str, int]:
        """Return the number of images of each stream that has any."""
        sizes = {}
        for stream in ("labeled", "unlabeled", "all"):
            dataset = self.dataset(stream)
            if len(dataset):
                sizes[stream] = len(dataset)
        return sizes

    def remarks(self) -> list[str]:
        """Return one line for all that was left out of any dataset, or is worth a look."""
        datasets = (self.labeled, self.hidden, self.unlabeled, self.validation)
        lines = [line for dataset in datasets if dataset is not None for line in dataset.dropped]
        return list(dict.fromkeys([*lines, *self.notes]))

    def require_images(self, stages: Iterable[LabelStage | TrainStage]) -> None:
        """Make sure that every stream that a stage reads has images.

        Raises:
            DataError: A stream is empty: all its images are labeled ones.
        """
        sizes = self.sizes()
        for index, stage in enumerate(stages):
            streams = [stage.images] if isinstance(stage, LabelStage) else stage.images
            for stream in streams:
                if stream not in sizes:
                    raise DataError(
                        f"stages[{index}].images: the stream {stream!r} has no image. An image "
                        "whose labels are used is not taken as an unlabeled one too; add other "
                        f"images to data.{stream}, or leave the stream out."
                    )

    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Return sample id -> hash of place, file size, annotations and classes, by dataset."""
        named = {
            "labeled": self.labeled,
            "unlabeled": self.unlabeled,
            "validation": self.validation,
        }
        return {name: _fingerprints(data) for name, data in named.items() if data is not None}


def load_run_data(config: DataConfig) -> RunData:
    """Read all datasets of a recipe.

    Args:
        config: The recipe's `data`, paths absolute.

    Raises:
        DataError: Files or records that cannot be used, those of all sources at once, or labeled
            images that are validation images too.
        ClassMapError: The validation images have classes that the labeled ones lack.
    """
    sources = _read_sources(config)
    validation = sources.get(_VALIDATION)
    notes = [line for source in sources.values() for line in source.notes]
    labeled = hidden = None
    if config.labeled is not None:
        complete = sources[_LABELED]
        notes += _refuse_overlap(config, complete, validation)
        labeled, hidden = take_fraction(
            complete,
            config.labeled.fraction,
            seed=config.labeled.seed,
            scene_gap=config.labeled.scene_gap,
        )
    unlabeled = _pool(config, sources, labeled=labeled, hidden=hidden)
    classes = labeled.classes if labeled is not None else None
    if validation is not None and classes is None:
        classes = validation.classes
    elif validation is not None and classes is not None:
        notes += [f"{_VALIDATION}: {line}" for line in alias_remarks(validation, classes)]
        validation = with_classes(validation, classes)
    return RunData(
        classes=classes,
        labeled=labeled,
        hidden=hidden,
        unlabeled=unlabeled,
        validation=validation,
        notes=tuple(notes),
    )


def _refuse_overlap(config: DataConfig, labeled: Dataset, validation: Dataset | None) -> list[str]:
    if validation is None:
        return []
    sources = (config.labeled, config.validation)
    is_strict = any(source is not None and source.strict for source in sources)
    return refuse_measuring_on_training_images(labeled, validation, strict=is_strict)


def _pool(
    config: DataConfig,
    sources: Mapping[str, Dataset],
    *,
    labeled: Dataset | None,
    hidden: Dataset | None,
) -> Dataset | None:
    """Return the unlabeled images without those that are learned from or measured on."""
    parts = []
    for index, source in enumerate(config.unlabeled):
        if isinstance(source, SourceConfig):
            parts.append(without_annotations(sources[_unlabeled(index)]))
        elif hidden is not None:
            parts.append(without_annotations(hidden))
    if not parts:
        return None
    pool = merge(parts)
    if labeled is not None:
        pool = without_files(pool, labeled)
    return without_validation(pool, sources[_VALIDATION]) if _VALIDATION in sources else pool


def _read_sources(config: DataConfig) -> dict[str, Dataset]:
    """Return each source by its key in the recipe.

    Raises:
        DataError: Some cannot be used; the message has the faults of all of them.
    """
    source_by_place: dict[str, SourceConfig] = {}
    if config.labeled is not None:
        source_by_place[_LABELED] = config.labeled
    for index, source in enumerate(config.unlabeled):
        if isinstance(source, SourceConfig):
            source_by_place[_unlabeled(index)] = source
    if config.validation is not None:
        source_by_place[_VALIDATION] = config.validation
    root = common_root(config)
    datasets: dict[str, Dataset] = {}
    errors: dict[str, DataError] = {}
    for place, source in source_by_place.items():
        try:
            datasets[place] = _read(source, root)
        except DataError as error:
            errors[place] = error
    raise_together(errors)
    return datasets


def _unlabeled(index: int) -> str:
    return f"data.unlabeled[{index}]"


def with_classes(dataset: Dataset, classes: ClassList) -> Dataset:
    """Return the dataset with its labels counted in another class list, matched by name.

    Raises:
        ClassMapError: The dataset has a class with boxes that is not in the list.
    """
    if dataset.classes is None or dataset.classes == classes:
        return replace(dataset, classes=classes)
    mapping = map_names(dataset.classes, classes).labels
    used = {
        int(label)
        for sample in dataset.samples
        if sample.annotations is not None
        for label in sample.annotations.labels
    }
    lost = [dataset.classes[label] for label in sorted(used) if mapping[label] is None]
    if lost:
        near = " ".join(f"{name!r}: {similar_names(name, classes)}" for name in lost[:5])
        raise ClassMapError(
            f"The annotations to measure on have boxes of the classes {', '.join(lost)}, which "
            f"are not among the {len(classes)} to learn or detect. {near} Rename them or leave "
            "their boxes out."
        )
    samples = [
        sample
        if sample.annotations is None
        else replace(sample, annotations=_relabeled(sample.annotations, mapping))
        for sample in dataset.samples
    ]
    return replace(dataset, samples=tuple(samples), classes=classes)


def alias_remarks(dataset: Dataset, classes: ClassList) -> list[str]:
    """Return a line where classes of a dataset count as those of a list by an alias alone.

    Args:
        dataset: To be counted in the list's classes.
        classes: The list.
    """
    if dataset.classes is None:
        return []
    mapping = map_names(dataset.classes, classes)
    pairs = [
        f"{name} as {classes[label]}"
        for name, label, how in zip(mapping.source, mapping.labels, mapping.matched_by, strict=True)
        if label is not None and how == "alias"
    ]
    return [f"classes counted under another name for the same: {', '.join(pairs)}"] if pairs else []


def _relabeled(annotations: Annotations, mapping: Sequence[int | None]) -> Annotations:
    labels = np.array([mapping[label] for label in annotations.labels], dtype=np.int64)
    return replace(annotations, labels=labels)


def _read(source: SourceConfig, root: Path) -> Dataset:
    if isinstance(source, AnnotatedSourceConfig) and source.annotations is not None:
        return read_annotated(
            source.format,
            source.images,
            source.annotations,
            listed=source.list,
            root=root,
            strict=source.strict,
        )
    return read_unlabeled(
        source.format, source.images, source.annotations, listed=source.list, root=root
    )


def common_root(config: DataConfig) -> Path:
    """Return the folder that the sample ids of a run are relative to."""
    sources = [config.labeled, config.validation, *config.unlabeled]
    # abspath, not resolve, as for sample ids: a link keeps the name that the user sees.
    folders = [os.path.abspath(s.images) for s in sources if isinstance(s, SourceConfig)]  # noqa: PTH100
    return Path(os.path.commonpath(folders))


def changed_files(
    before: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]], *, root: Path
) -> list[str]:
    """Return one line for each image in which two results of `RunData.fingerprints` differ.

    Args:
        before: What a run was begun with.
        now: What it reads now.
        root: The folder that sample ids are relative to.
    """
    lines = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, {}), now.get(name, {})
        lines += [f"{name}: {root / image} is gone" for image in old if image not in new]
        lines += [f"{name}: {root / image} was added" for image in new if image not in old]
        lines += [
            f"{name}: {root / image} has another place, size or annotations"
            for image in old
            if image in new and old[image] != new[image]
        ]
    return lines


def _fingerprints(dataset: Dataset) -> dict[str, str]:
    classes = None if dataset.classes is None else list(dataset.classes)
    return {
        sample.id: artefacts.fingerprint_json(
            [place, _num_bytes(sample.path), classes, _as_lists(sample.annotations)]
        )[:16]
        for place, sample in enumerate(dataset.samples)
    }


def _num_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            f"{one_line(path)}: the image was there a moment ago and is not any more "
            f"({error.strerror}). Let nobody change the images of a run."
        ) from error


def _as_lists(annotations: Annotations | None) -> list[list[Any]] | None:
    if annotations is None:
        return None
    return [
        array.tolist()
        for array in (annotations.boxes, annotations.labels, annotations.areas, annotations.crowd)
    ]

"""Labels images shard by shard, going on where an interrupted call stopped."""

from collections.abc import Callable, Iterable, Sequence

from distildet.data.dataset import Sample
from distildet.errors import DataError
from distildet.pseudolabels.quarantine import Quarantine
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections, ImageBatch

Batches = Callable[[Sequence[Sample]], Iterable[ImageBatch]]
Predict = Callable[[ImageBatch], Sequence[Detections]]


def label_images(
    store: PseudoLabelStore,
    samples: Sequence[Sample],
    *,
    batches: Batches,
    predict: Predict,
    progress: Callable[[int, int], None] | None = None,
    quarantine: Quarantine | None = None,
) -> None:
    """Fill the missing shards of a store.

    A shard is a fixed slice of the samples and is written whole, so that no image is labeled
    twice or lost, whenever the process dies. Batches never span shards: which images a teacher
    sees together does not depend on where an earlier call stopped.

    Args:
        store: Made for these samples in this order.
        samples: All images of the work.
        batches: Gives the batches of some samples, in their order.
        predict: Detections of a batch in the image frame, one for each image.
        progress: Told finished and all images after each batch.
        quarantine: Takes the images that cannot be decoded or whose boxes are not finite, and is
            written before their shard; they have no entry in the store. Shards whose bad images
            were mended since are made again. With None, such an image ends the work.

    Raises:
        DataError: The teacher returned boxes that are not finite, or an image cannot be decoded.
        GateError: More images are bad than the quarantine accepts.
        ResourceError: The disk is full; the shards before are intact.
    """
    slices = _slices(store, samples, quarantine)
    done = len(samples) - sum(len(part) for part in slices.values())

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, len(samples))

    if quarantine is not None:
        quarantine.forget(sample.id for part in slices.values() for sample in part)
        quarantine.raise_if_too_many()
    for index, part in slices.items():
        if quarantine is None:
            labels: dict[str, StoredLabels] = {}
            _label(part, labels, batches, predict, advance)
        else:
            labels = _label_good(part, quarantine, batches, predict, advance)
            quarantine.write()
        store.write_shard(index, labels)
        if quarantine is not None:
            quarantine.raise_if_too_many()


def _slices(
    store: PseudoLabelStore, samples: Sequence[Sample], quarantine: Quarantine | None
) -> dict[int, Sequence[Sample]]:
    """Return the samples of each shard that is to be made."""
    mended = quarantine.mended() if quarantine is not None else set()
    again = {i // store.shard_size for i, sample in enumerate(samples) if sample.id in mended}
    return {
        index: samples[index * store.shard_size : (index + 1) * store.shard_size]
        for index in sorted(again.union(store.missing_shards()))
    }


def _label(
    part: Sequence[Sample],
    labels: dict[str, StoredLabels],
    batches: Batches,
    predict: Predict,
    advance: Callable[[int], None],
) -> None:
    """Add what the teacher finds in each image to `labels`, batch by batch."""
    for batch in batches(part):
        for name, size, found in zip(
            batch.image_ids, batch.image_sizes.tolist(), predict(batch), strict=True
        ):
            labels[name] = StoredLabels(detections=found, image_size=(size[0], size[1]))
        advance(len(batch))


def _label_good(
    part: Sequence[Sample],
    quarantine: Quarantine,
    batches: Batches,
    predict: Predict,
    advance: Callable[[int], None],
) -> dict[str, StoredLabels]:
    """Return what the teacher finds in each image, but for those that are put into quarantine."""
    labels: dict[str, StoredLabels] = {}
    waiting = list(part)
    while waiting:
        try:
            _label(waiting, labels, batches, predict, advance)
        except DataError:
            # An image of the batch after those that are labeled cannot be decoded. Which images
            # are seen together from here on follows from the files alone, not from any earlier
            # interruption.
            waiting = [sample for sample in waiting if sample.id not in labels]
            fault = _first_fault(waiting, batches)
            if fault is None:
                raise
            bad, error = fault
            quarantine.add(bad.id, "decode", str(error))
            waiting.remove(bad)
            advance(1)
        else:
            break
    for name in [name for name, entry in labels.items() if not _is_finite(entry.detections)]:
        del labels[name]
        quarantine.add(
            name, "teacher", f"{name}: the teacher returned boxes or scores that are not finite."
        )
    return labels


def _first_fault(samples: Sequence[Sample], batches: Batches) -> tuple[Sample, DataError] | None:
    """Return the first sample that cannot be decoded, and why."""
    for sample in samples:
        try:
            for _ in batches([sample]):
                pass
        except DataError as error:
            return sample, error
    return None


def _is_finite(found: Detections) -> bool:
    tensors = (found.boxes, found.scores)
    return found.is_finite and all(bool(tensor.isfinite().all()) for tensor in tensors)

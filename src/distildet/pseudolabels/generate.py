"""Labels images shard by shard, going on where an interrupted call stopped."""

from collections.abc import Callable, Iterable, Sequence

from distildet.data.dataset import Sample
from distildet.pseudolabels.store import PseudoLabelStore, StoredLabels
from distildet.structures import Detections, ImageBatch


def label_images(
    store: PseudoLabelStore,
    samples: Sequence[Sample],
    *,
    batches: Callable[[Sequence[Sample]], Iterable[ImageBatch]],
    predict: Callable[[ImageBatch], Sequence[Detections]],
    progress: Callable[[int, int], None] | None = None,
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
        progress: Told labeled and all images after each batch.

    Raises:
        DataError: The teacher returned boxes that are not finite, or an image cannot be decoded.
        ResourceError: The disk is full; the shards before are intact.
    """
    slices = {
        index: samples[index * store.shard_size : (index + 1) * store.shard_size]
        for index in store.missing_shards()
    }
    done = len(samples) - sum(len(part) for part in slices.values())
    for index, part in slices.items():
        labels: dict[str, StoredLabels] = {}
        for batch in batches(part):
            for name, size, found in zip(
                batch.image_ids, batch.image_sizes.tolist(), predict(batch), strict=True
            ):
                labels[name] = StoredLabels(detections=found, image_size=(size[0], size[1]))
            done += len(batch)
            if progress is not None:
                progress(done, len(samples))
        store.write_shard(index, labels)

"""Labels images shard by shard, going on where an interrupted call stopped."""

from collections.abc import Callable, Iterable, Sequence

from distildet.data.dataset import Sample
from distildet.pseudolabels.store import PseudoLabelStore
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
    twice or lost, whenever the process dies.

    Args:
        store: Made for these samples in this order.
        samples: All images of the work.
        batches: Gives the batches of some samples, in their order.
        predict: Detections of a batch in the image frame.
        progress: Told labeled and all images after each batch.

    Raises:
        DataError: The teacher returned boxes that are not finite, or an image cannot be decoded.
        ResourceError: The disk is full; the shards before are intact.
    """
    missing = store.missing_shards()
    slices = {
        index: samples[index * store.shard_size : (index + 1) * store.shard_size]
        for index in missing
    }
    done = len(samples) - sum(len(part) for part in slices.values())
    for index, part in slices.items():
        detections: dict[str, Detections] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for batch in batches(part):
            for i, found in enumerate(predict(batch)):
                height, width = batch.image_sizes[i].tolist()
                detections[batch.image_ids[i]] = found
                sizes[batch.image_ids[i]] = (height, width)
            done += len(batch)
            if progress is not None:
                progress(done, len(samples))
        store.write_shard(index, detections, sizes)

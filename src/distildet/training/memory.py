"""What can be done when memory runs out in a step."""

from collections.abc import Sequence

from distildet.detectors.base import BatchNorms, Detector
from distildet.ops.processes import num_processes
from distildet.structures import ImageBatch, Targets


def more_micro_batches(images: int, micro_batches: int) -> int:
    """Return the next number of micro-batches of equal size, as recipes accept them.

    Args:
        images: Of the batch.
        micro_batches: Fewer than images.
    """
    return next(one for one in range(micro_batches + 1, images + 1) if images % one == 0)


def why_not_more(
    student: Detector, batch: ImageBatch, targets: Sequence[Targets], *, micro_batches: int
) -> str | None:
    """Tell why a batch may not be split further to save memory.

    Args:
        student: In training mode.
        batch: The images of this process.
        targets: One an image.
        micro_batches: How many the memory was too small for.

    Returns:
        None where more of them compute the same; else the reason, the batch, and what to do.
    """
    if any(isinstance(layer, BatchNorms) and layer.training for layer in student.modules()):
        reason = (
            "BatchNorm in training mode would see smaller batches and be another thing. Choose "
            "that with a larger accumulate, or set batch_norm: frozen, or a smaller batch_size or "
            "data.image_size, with a new --out"
        )
    elif num_processes() > 1:
        reason = (
            "The other processes wait, so it is not split here. Start more processes, or set a "
            "larger accumulate, or a smaller batch_size or data.image_size, with a new --out"
        )
    elif micro_batches >= len(batch):
        reason = "One image is the least there is. Free memory and run the same command again"
    else:
        return None
    height, width = batch.pixels.shape[2:]
    most = max(len(target.boxes) for target in targets)
    return (
        f"{-(-len(batch) // micro_batches)} images of {height}x{width} pixels with up to {most} "
        f"boxes are too much. {reason}. Images: {', '.join(batch.image_ids)}."
    )

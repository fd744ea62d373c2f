"""The task: what a training step computes from a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from distildet.detectors.base import Detector
from distildet.structures import LOSSES, ImageBatch, Targets


@dataclass(frozen=True, kw_only=True)
class StepLosses:
    """Result of one forward pass of a task.

    Args:
        total: Scalar to minimise, with gradient.
        parts: Named float32 scalars that it is the sum of.
    """

    total: Tensor
    parts: Mapping[str, Tensor]


class Task(nn.Module):
    """Student and everything trained with it; all state of a stage lives in here.

    Args:
        student: The detector that learns.
    """

    def __init__(self, student: Detector) -> None:
        super().__init__()
        self.student = student

    def forward(self, batch: ImageBatch, targets: Sequence[Targets]) -> StepLosses:
        """Return the losses of a batch.

        Args:
            batch: Images, on the student's device.
            targets: One an image, batch frame.
        """
        losses = self.student(batch, targets, want={LOSSES}).losses
        total = sum(losses.values(), start=batch.pixels.new_zeros(()))
        return StepLosses(total=total, parts=losses)


def split_batch(
    batch: ImageBatch, targets: Sequence[Targets], parts: int
) -> list[tuple[ImageBatch, Sequence[Targets]]]:
    """Split a batch into micro-batches of equal size on the same padded canvas.

    Args:
        batch: Images.
        targets: One an image.
        parts: Number of micro-batches; at most the number of images.
    """
    size = -(-len(batch) // parts)
    pieces: list[tuple[ImageBatch, Sequence[Targets]]] = []
    for start in range(0, len(batch), size):
        chosen = slice(start, start + size)
        piece = replace(
            batch,
            pixels=batch.pixels[chosen],
            sizes=batch.sizes[chosen],
            image_sizes=batch.image_sizes[chosen],
            image_to_batch=batch.image_to_batch[chosen],
            image_ids=batch.image_ids[chosen],
        )
        pieces.append((piece, targets[chosen]))
    return pieces

"""The task: what a training step computes from a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
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
    """Split a batch into micro-batches on the same padded canvas, equal but for the last.

    Args:
        batch: Images.
        targets: One an image.
        parts: Largest number of micro-batches.
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


def backward(
    task: Task,
    batch: ImageBatch,
    targets: Sequence[Targets],
    *,
    parts: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """Add the gradients of a batch, one micro-batch after the other.

    Args:
        task: Whose parameters get the gradients.
        batch: Images.
        targets: One an image.
        parts: Largest number of micro-batches.
        device: Where the task is.

    Returns:
        The named losses, means over the images, without gradient.
    """
    means: dict[str, Tensor] = {}
    for piece, piece_targets in split_batch(batch, targets, parts):
        losses: StepLosses = task(piece.to(device), [t.to(device) for t in piece_targets])
        share = len(piece) / len(batch)
        (losses.total * share).backward()  # type: ignore[no-untyped-call] # torch has no type
        for name, value in losses.parts.items():
            means[name] = means.get(name, value.new_zeros(())) + value.detach() * share
    return means

"""The data that crosses borders between layers, with the frame and unit of each field.

Image frame: pixels of the file after EXIF rotation. Batch frame: pixels of the padded batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

Origin = Literal["human", "teacher"]

BACKGROUND = -1
"""What is matched to no box, in the numbers of torchvision's `Matcher`."""
LEFT_OUT = -2
"""What is matched to nothing, not to background either, in the same numbers."""

FEATURES_BACKBONE = "features.backbone"
FEATURES_NECK = "features.neck"
FEATURES_HEAD = "features.head"
DENSE = "dense"
QUERIES = "queries"
REGIONS = "regions"
LOSSES = "losses"
DETECTIONS = "detections"

PARTS = frozenset(
    {
        FEATURES_BACKBONE,
        FEATURES_NECK,
        FEATURES_HEAD,
        DENSE,
        QUERIES,
        REGIONS,
        LOSSES,
        DETECTIONS,
    }
)
"""Vocabulary of what a detector can return, a caller can want, and a loss can need."""
GIVEN_PARTS = frozenset({REGIONS})
"""Those parts of one detector that another can be given to work on in place of its own."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """Images of one step, the same for teacher and student.

    Args:
        pixels: [b 3 h w], RGB float32 0..1, not normalised, zeros right of and below each image.
        sizes: [b 2] int64, valid (height, width) of each image inside the padded pixels.
        image_sizes: [b 2] int64, (height, width) in the image frame.
        image_to_batch: [b 3 3] float64, homogeneous matrix from image-frame (x, y, 1) to the
            batch frame; axis-aligned (scale, mirror, shift).
        image_ids: The sample ids, in the same order.
        view_ids: Names of the views, in the same order, where the same views come again in later
            passes; else empty.
    """

    pixels: Tensor
    sizes: Tensor
    image_sizes: Tensor
    image_to_batch: Tensor
    image_ids: tuple[str, ...]
    view_ids: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.image_ids)

    @property
    def canvas(self) -> tuple[int, int]:
        """The (height, width) of the padded images."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def to(self, device: torch.device) -> "ImageBatch":
        """Return the batch with its pixels on a device; the small tensors stay on the CPU.

        The pixels come in the memory layout in which convolutions are fastest, so that teacher
        and student need not bring them into it each by itself.
        """
        pixels = self.pixels.to(device, non_blocking=True, memory_format=torch.channels_last)
        return replace(self, pixels=pixels)

    def part(self, start: int, stop: int) -> "ImageBatch":
        """Return the images from `start` up to, without, `stop`, on the same padded canvas."""
        chosen = slice(start, stop)
        return replace(
            self,
            pixels=self.pixels[chosen],
            sizes=self.sizes[chosen],
            image_sizes=self.image_sizes[chosen],
            image_to_batch=self.image_to_batch[chosen],
            image_ids=self.image_ids[chosen],
            view_ids=self.view_ids[chosen],
        )


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What one image teaches, in the batch frame.

    Args:
        boxes: [n 4] float32, xyxy pixels.
        labels: [n] int64, 0-based.
        weights: [n] float32, factor of each box in classification and box loss.
        ignore: [m 4] float32, regions where nothing is said about objects.
        known_classes: [k] bool, classes that somebody looked for in this image.
        origin: Who drew the boxes.
        scores: [n] float32, 0..1, what the score of each box's class shall become, in losses that
            can ask for less than 1; None where it is 1 for all.
    """

    boxes: Tensor
    labels: Tensor
    weights: Tensor
    ignore: Tensor
    known_classes: Tensor
    origin: Origin
    scores: Tensor | None = None

    def chosen(self, which: Tensor) -> "Targets":
        """Return the targets with some of the boxes; regions and classes stay.

        Args:
            which: [n] bool, or indices in the wanted order.
        """
        return replace(
            self,
            boxes=self.boxes[which],
            labels=self.labels[which],
            weights=self.weights[which],
            scores=None if self.scores is None else self.scores[which],
        )

    @property
    def human_ignore(self) -> Tensor:
        """The regions to ignore [m 4] where a human drew the boxes; none where a teacher did."""
        return self.ignore if self.origin == "human" else self.ignore[:0]


def move_targets(targets: Sequence[Targets], device: torch.device) -> list[Targets]:
    """Return targets with every tensor on a device, sent together.

    A batch of 16 images has 80 tensors, and to a GPU each small copy takes as long as a large one.

    Args:
        targets: One an image.
        device: Where they shall be.
    """
    if all(target.boxes.device == device for target in targets):
        return list(targets)
    moved: list[dict[str, Tensor]] = [{} for _ in targets]
    for names in (("boxes", "weights", "ignore", "scores"), ("labels",), ("known_classes",)):
        present = [
            (fields, name, tensor)
            for target, fields in zip(targets, moved, strict=True)
            for name in names
            if (tensor := getattr(target, name)) is not None
        ]
        flat = torch.cat([tensor.flatten() for *_, tensor in present]).to(device)
        pieces = torch.split(flat, [tensor.numel() for *_, tensor in present])
        for (fields, name, tensor), piece in zip(present, pieces, strict=True):
            fields[name] = piece.reshape(tensor.shape)
    return [
        replace(target, **fields)  # type: ignore[arg-type] # all of these fields are tensors
        for target, fields in zip(targets, moved, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Final result for one image, in the image frame, best score first.

    Args:
        boxes: [n 4] float32, xyxy pixels of the original image.
        scores: [n] float32, 0..1.
        labels: [n] int64, 0-based.
        probs: [n k] float32 class probabilities, or None where the detector has none.
        is_finite: False where the detector computed numbers that are not finite: that there are
            no boxes then says nothing about the image.
        fault: Why the detector has no answer for this image, such as a file of boxes that does not
            list it, as a whole message; None where it has one, which may be that there is nothing.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    probs: Tensor | None = None
    is_finite: bool = True
    fault: str | None = None

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    def chosen(self, which: Tensor) -> "Detections":
        """Return some of the detections.

        Args:
            which: [n] bool, or indices in the wanted order.
        """
        return replace(
            self,
            boxes=self.boxes[which],
            scores=self.scores[which],
            labels=self.labels[which],
            probs=None if self.probs is None else self.probs[which],
        )

    def above(self, threshold: float) -> "Detections":
        """Return the detections with a score of at least `threshold`."""
        return self.chosen(self.scores >= threshold)


@dataclass(frozen=True, kw_only=True)
class DensePrediction:
    """Predictions of a dense head before post-processing, one tensor a pyramid level.

    Args:
        logits: Per level [b n k], location-major (all priors of a location together).
        box_codes: Per level [b n 4], in the code of the detector's box coder.
        priors: Per level [n 4], anchors in xyxy pixels of the batch frame, always float32.
        activation: How logits become probs.
        quality_logits: Per level [b n], how well a box fits its object (FCOS: centre-ness);
            sigmoid gives 0..1. None where the head has none.
        matched_labels: Per level [b n] int64, label of the target box that the detector's own
            matching gives to a prior, or BACKGROUND or LEFT_OUT. None where it got no targets.
    """

    logits: tuple[Tensor, ...]
    box_codes: tuple[Tensor, ...]
    priors: tuple[Tensor, ...]
    activation: Literal["sigmoid", "softmax"]
    quality_logits: tuple[Tensor, ...] | None = None
    matched_labels: tuple[Tensor, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class RegionPrediction:
    """What the region head of a two-stage detector says about proposals, one tensor an image.

    Args:
        proposals: An image [n 4] float32, xyxy pixels of the batch frame, without gradient.
        features: An image [n c s s], pooled from the neck before the region head.
        logits: An image [n 1+k], background first, then the classes; softmax gives probs.
        box_codes: An image [n k 4], in the code of the detector's box coder, for each class.
    """

    proposals: tuple[Tensor, ...]
    features: tuple[Tensor, ...]
    logits: tuple[Tensor, ...]
    box_codes: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class DetectorOutput:
    """What one forward pass returned; parts that were not wanted are empty or None.

    Args:
        features: Level name -> [b c h w].
        dense: Predictions of a dense head.
        regions: Predictions of a region head.
        losses: The detector's own training loss, named parts, float32 scalars.
        detections: One result an image.
    """

    features: Mapping[str, Tensor] = field(default_factory=dict)
    dense: DensePrediction | None = None
    regions: RegionPrediction | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    detections: tuple[Detections, ...] | None = None

"""The contract of a detector: a static spec and one forward pass that returns the asked parts."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distildet.data.dataset import Sample
from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.errors import ConfigError, DataError, MissingPartError
from distildet.ops.fitting import in_fitting_parts
from distildet.registry import Registry
from distildet.specs import DetectorSpec
from distildet.structures import DETECTIONS, Detections, DetectorOutput, ImageBatch, Targets

BatchNorms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Detector(nn.Module, ABC):
    """A detector with a spec; every trainable parameter is reached through `forward`.

    Class attributes:
        counts_over_batch: Whether its losses call `distildet.ops.reduce.batch_total`, that is,
            whether they are more than a mean over images.
        computes: Whether it computes its answers from pixels, so that these have a cost.

    Args:
        spec: Facts of this detector.
    """

    counts_over_batch: ClassVar[bool] = True
    computes: ClassVar[bool] = True

    def __init__(self, spec: DetectorSpec) -> None:
        super().__init__()
        self.spec = spec
        self.has_frozen_batch_norm = False

    @abstractmethod
    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets] | None = None,
        *,
        want: Iterable[str],
        given: Mapping[str, Any] | None = None,
    ) -> DetectorOutput:
        """Compute the wanted parts in one pass.

        Args:
            batch: Un-normalised images; the detector normalises for itself.
            targets: One for each image, batch frame; needed for "losses", and for what the priors
                of "dense" are matched to.
            want: Words of `distildet.structures.PARTS`.
            given: What another model produced and this one shall use, by part name.

        Raises:
            MissingPartError: A wanted part is not in the spec.
        """

    @abstractmethod
    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbone, which may have a learning rate of their own."""

    @abstractmethod
    def class_layers(self) -> tuple[str, ...]:
        """Return the names of the modules whose weights belong to the classes, in their order."""

    @property
    def device(self) -> torch.device:
        """Where it computes; one without weights computes on the CPU."""
        parameter = next(self.parameters(), None)
        return torch.device("cpu") if parameter is None else parameter.device

    def expect(self, image_ids: Iterable[str]) -> None:
        """Get to know which images will come; most detectors have no use for it.

        Args:
            image_ids: Sample ids of all images of a work.

        Raises:
            DataError: It cannot tell what it knows of one of them from what it knows of another.
        """

    def unanswered(self, samples: Iterable[Sample]) -> list[str]:  # noqa: ARG002 - for overriding
        """Return the ids of images for which it is known beforehand to have no answer.

        Detectors that compute their answers have one for every image.

        Args:
            samples: Images of which it was told by `expect`.
        """
        return []

    def wanted(self, want: Iterable[str]) -> frozenset[str]:
        """Return the wanted parts as a set after checking that this detector has them.

        Raises:
            MissingPartError: A part is not in the spec.
        """
        parts = frozenset(want)
        missing = sorted(parts - self.spec.parts)
        if missing:
            raise MissingPartError(
                f"Detector {self.spec.family!r} cannot return {', '.join(missing)}. "
                f"It has: {', '.join(sorted(self.spec.parts))}."
            )
        return parts

    def normalise(self, batch: ImageBatch) -> Tensor:
        """Return the pixels [b 3 h w] with this detector's mean and std, padding zero again."""
        pixels = batch.pixels
        mean = pixels.new_tensor(self.spec.mean)[None, :, None, None]
        std = pixels.new_tensor(self.spec.std)[None, :, None, None]
        sizes = batch.sizes.to(pixels.device)
        rows = torch.arange(pixels.shape[2], device=pixels.device)[None] < sizes[:, :1]  # [b h]
        columns = torch.arange(pixels.shape[3], device=pixels.device)[None] < sizes[:, 1:]  # [b w]
        valid = (rows[:, None, :, None] & columns[:, None, None, :]).to(pixels.dtype)  # [b 1 h w]
        return (pixels - mean) / std * valid

    def freeze_batch_norm(self) -> None:
        """Keep BatchNorm in eval mode from now on and stop training its scale and shift."""
        self.has_frozen_batch_norm = True
        for module in self.modules():
            if isinstance(module, BatchNorms):
                module.requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "Detector":  # noqa: FBT001, FBT002 - torch's signature
        """Set training mode; frozen BatchNorm stays in eval mode."""
        super().train(mode)
        if self.has_frozen_batch_norm:
            for module in self.modules():
                if isinstance(module, BatchNorms):
                    module.eval()
        return self

    @torch.no_grad()
    def predict(
        self,
        images: Sequence[Path | str | NDArray[Any] | Tensor],
        *,
        batch_size: int = 8,
        names: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Detect objects in images of any size.

        Args:
            images: Files, arrays [h w 3] uint8 RGB, or tensors [3 h w] (uint8, or float 0..1).
            batch_size: Images that go through the network together, at least 1; half as many from
                where memory runs out.
            names: Of the images, for a detector that knows them by name, such as a file of boxes;
                by default paths, and numbers where there are none.

        Returns:
            One result an image, boxes in pixels of that image.

        Raises:
            ConfigError: batch_size is below 1.
            DataError: A file cannot be decoded, an array is not an RGB image, `images` is a single
                file, or the detector has no answer for an image.
            ResourceError: The memory is too small for a single image.
        """
        if isinstance(images, (str, Path)):
            raise DataError(f"predict() was given the single file {images}. Give a list: [...].")
        if batch_size < 1:
            raise ConfigError(f"predict(): batch_size is {batch_size}. Accepted: 1 or more.")
        given = list(names or map(_name, images, range(len(images))))
        self.expect(given)
        device = self.device
        detect = in_fitting_parts(
            lambda part: self(part.to(device), want={DETECTIONS}).detections, device
        )
        was_training = self.training
        self.eval()
        results: list[Detections] = []
        try:
            for start in range(0, len(images), batch_size):
                chunk = images[start : start + batch_size]
                views = [
                    fit_view(_checked(image, start + i), self.spec.view_size)
                    for i, image in enumerate(chunk)
                ]
                batch = collate(views, given[start : start + len(views)])
                results.extend(chain.from_iterable(detect(batch)))
        finally:
            self.train(was_training)
        for found in results:
            raise_if_unanswered(found)
        return results


def raise_if_unanswered(found: Detections) -> None:
    """End the work if a detector has no answer for an image.

    Raises:
        DataError: It has none.
    """
    if found.fault is not None:
        raise DataError(found.fault)


def _name(image: Path | str | NDArray[Any] | Tensor, index: int) -> str:
    return Path(image).as_posix() if isinstance(image, (str, Path)) else str(index)


def _checked(image: Path | str | NDArray[Any] | Tensor, index: int) -> Path | Tensor:
    """Return the path of a file, or the pixels [3 h w] uint8 of anything else."""
    if isinstance(image, (str, Path)):
        return Path(image)
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        # A mirrored or swapped view has negative strides, which torch does not know.
        pixels = torch.from_numpy(np.ascontiguousarray(image))
        pixels = pixels.movedim(-1, 0) if pixels.dim() == 3 else pixels  # [3, h, w]
    elif isinstance(image, Tensor):
        pixels = _as_bytes(image.detach().cpu())
    else:
        raise _not_an_image(image, index)
    if (
        pixels.dim() != 3
        or pixels.shape[0] != 3
        or pixels.dtype != torch.uint8
        or not pixels.numel()
    ):
        raise _not_an_image(image, index)
    return pixels


def _as_bytes(image: Tensor) -> Tensor:
    """Return floats of 0..1 as bytes; all else, other floats included, as it is."""
    if image.is_floating_point() and bool(((image >= 0) & (image <= 1)).all()):
        return (image * 255).round().to(torch.uint8)
    return image


def _not_an_image(image: Any, index: int) -> DataError:
    shape, dtype = getattr(image, "shape", "unknown"), getattr(image, "dtype", "unknown")
    return DataError(
        f"predict(): image {index} is of {type(image)}, shape {shape} and type {dtype}. "
        "Accepted: files, arrays [height, width, 3] of uint8 in RGB, and tensors "
        "[3, height, width] of uint8 or of floats from 0 to 1."
    )


DETECTORS: Registry[Any] = Registry("detector")

"""A teacher in an ONNX file: what it expects and returns is declared, and tried before any work."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image
from torchvision.transforms.v2 import functional

from distildet import artefacts
from distildet.classes import ClassList
from distildet.data.transforms import fitted_size
from distildet.detectors.black_box import BlackBoxDetector, nothing, ranked
from distildet.detectors.onnx_declaration import (
    AnyOnnxOutput,
    DetectionsOutput,
    OnnxInput,
)
from distildet.detectors.onnx_model import OnnxModel, Port, onnx_fingerprint
from distildet.detectors.onnx_outputs import Found, Meaning, class_numbers
from distildet.errors import ConfigError, WeightsError, nearest_names
from distildet.ops.frames import to_image_frame
from distildet.specs import InputFrame
from distildet.structures import Detections, ImageBatch

# Any, since torchvision does not declare which of these names are public.
_KERNELS: Any = functional
_BGR = [2, 1, 0]
_TYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
_GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class _Placement:
    """Where an image lies in the input: input = batch * scale + start, each (x, y)."""

    scale: tuple[float, float]
    start: tuple[int, int]


class OnnxDetector(BlackBoxDetector):
    """A detector that ONNX Runtime computes on the CPU.

    Args:
        weights: The file.
        classes: What it detects, in the order of its labels.
        image_size: Side of its square input, or (height, width).
        input: How it sees an image.
        output: What its outputs mean.

    Raises:
        ConfigError: The declaration does not fit the model: names, shapes, types, number of
            classes, or what comes out for a grey image.
        MissingExtraError: ONNX Runtime is not installed.
        WeightsError: There is no such file, it is damaged, or the model fails or returns numbers
            that are not finite for a grey image.
    """

    def __init__(
        self,
        weights: Path | str,
        *,
        classes: ClassList | Sequence[str],
        image_size: int | tuple[int, int],
        input: OnnxInput,  # noqa: A002 - the word of the recipe
        output: AnyOnnxOutput,
    ) -> None:
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        names = classes if isinstance(classes, ClassList) else ClassList(tuple(classes))
        is_stretched = input.resize == "stretch"
        super().__init__(
            family="onnx",
            classes=names,
            image_size=max(size),
            frame=InputFrame(height=size[0], width=size[1], is_filled=is_stretched)
            if is_stretched or size[0] != size[1]
            else None,
            options={
                "image_size": list(size),
                "input": asdict(input),
                "output": {"layout": output.layout, **asdict(output)},
            },
        )
        self._path = Path(weights)
        self._size = size
        self._input = input
        self._model = OnnxModel(self._path)
        with _told_of(self._path):
            self._input_name, self._batch_size = self._checked_input()
            self._meaning = Meaning(
                output=self._named(output), num_classes=len(names), input_size=size
            )
            self._check_outputs()
        self._fingerprint = artefacts.fingerprint_json(
            {
                "weights": onnx_fingerprint(self._path),
                "classes": list(names),
                **self.spec.options,
            }
        )
        self._rehearse()

    @property
    def name(self) -> str:
        """Return the path of the file."""
        return str(self._path)

    @property
    def fingerprint(self) -> str:
        """Return a hash of the model's files and the declaration."""
        return self._fingerprint

    def detect(self, batch: ImageBatch) -> tuple[Detections, ...]:
        """Return one result an image, in the image frame, best score first.

        Args:
            batch: Un-normalised images, best as the spec's `view_size` asks for them: then every
                image is scaled once.

        Raises:
            ConfigError: What comes out contradicts the declaration.
            WeightsError: The model fails on these images.
        """
        pixels = batch.pixels.cpu().float()
        placed = [
            self._placed(pixels[i, :, :height, :width])
            for i, (height, width) in enumerate(batch.sizes.tolist())
        ]
        with _told_of(self._path):
            found = self._run([canvas for canvas, _ in placed])
        return tuple(
            self._in_image(one, placement, batch, i)
            for i, (one, (_, placement)) in enumerate(zip(found, placed, strict=True))
        )

    def _placed(self, image: Tensor) -> tuple[Tensor, _Placement]:
        """Return the input [3 h w] of an image [3 h w], and where in it the image lies."""
        declared, frame = self._input, self._size
        size = (image.shape[1], image.shape[2])
        inner = frame if declared.resize == "stretch" else fitted_size(size, frame)
        if inner != size:
            image = _KERNELS.resize(image, list(inner), antialias=True).clamp(0, 1)
        top, left = 0, 0
        if declared.resize == "letterbox-centre":
            top, left = (frame[0] - inner[0]) // 2, (frame[1] - inner[1]) // 2
        if declared.colour == "bgr":
            image = image[_BGR]
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (declared.mean, declared.std)
        )
        pad: Tensor | float = 0.0
        if isinstance(declared.pad, (int, float)):
            pad = (declared.pad / 255 * declared.range - mean) / std
        canvas = torch.zeros(3, *frame) + pad
        canvas[:, top : top + inner[0], left : left + inner[1]] = (
            image * declared.range - mean
        ) / std
        if declared.dtype == "uint8":
            canvas = canvas.round()
        scale = (inner[1] / size[1], inner[0] / size[0])
        return canvas.to(_TYPES[declared.dtype]), _Placement(scale=scale, start=(left, top))

    def _run(self, canvases: Sequence[Tensor]) -> list[Found]:
        """Return what the model says about each input, in batches as it takes them."""
        step = self._batch_size or max(1, len(canvases))
        found: list[Found] = []
        for start in range(0, len(canvases), step):
            part = list(canvases[start : start + step])
            # A model of a fixed batch of several gets the last image again where some are missing.
            filled = part + [part[-1]] * ((self._batch_size or 0) - len(part))
            arrays = self._arrays(torch.stack(filled))
            images = self._meaning.split(arrays, len(filled))
            found += [self._meaning.read(image) for image in images[: len(part)]]
        return found

    def _arrays(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name for inputs [b 3 h w]."""
        layout = self._input.layout
        if layout.endswith("hwc"):
            pixels = pixels.permute(0, 2, 3, 1)  # [b, h, w, 3]
        feeds = {
            self._input_name: (pixels if "n" in layout else pixels[0]).contiguous().numpy(),
        }
        if self._input.sizes is not None:
            sides = torch.tensor([[self._size[1], self._size[0]]]).repeat(len(pixels), 1)
            feeds[self._input.sizes] = sides.numpy()
        names = self._meaning.names()
        tensors = map(torch.from_numpy, self._model.run(feeds, names))
        return {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in zip(names, tensors, strict=True)
        }

    def _in_image(
        self, found: Found, placement: _Placement, batch: ImageBatch, index: int
    ) -> Detections:
        if not found.is_finite:
            return nothing(is_finite=False)
        start = torch.tensor(placement.start * 2, dtype=torch.float64)
        scale = torch.tensor(placement.scale * 2, dtype=torch.float64)
        height, width = batch.sizes[index].tolist()
        boxes = clip_boxes_to_image((found.boxes.double() - start) / scale, (height, width))
        return ranked(
            to_image_frame(boxes, batch, index),
            found.scores,
            found.labels,
            most=self._meaning.output.max_detections,
        )

    def _checked_input(self) -> tuple[str, int | None]:
        """Return the name of the input of images, and how many go in at once if that is fixed."""
        declared, inputs = self._input, self._model.inputs
        if declared.sizes is not None and declared.sizes not in inputs:
            raise ConfigError(
                f"input.sizes: the model has no input {declared.sizes!r}. "
                f"{nearest_names(declared.sizes, inputs)}"
            )
        images = [name for name in inputs if name != declared.sizes]
        name = _only("input.name", "input", declared.name, images)
        others = [other for other in images if other != name]
        if others:
            raise ConfigError(
                f"input: the model has other inputs beside {name!r}: {', '.join(others)}. "
                "Accepted: one of images, and one named by `sizes` that is given their (width, "
                "height). Export the model without the others."
            )
        return name, self._checked_port(name, inputs[name])

    def _checked_port(self, name: str, port: Port) -> int | None:
        """Return how many images the model takes at once, or None where it takes any number."""
        declared = self._input
        if port.dtype != declared.dtype:
            raise ConfigError(
                f"input.dtype: found {declared.dtype!r}, but the model's input {name!r} is of "
                f"{port.dtype}. Accepted here: {port.dtype}."
            )
        sides = {"n": None, "c": 3, "h": self._size[0], "w": self._size[1]}
        due = [sides[axis] for axis in declared.layout]
        fits = len(port.shape) == len(due) and all(
            side in {None, wanted} or wanted is None
            for side, wanted in zip(port.shape, due, strict=True)
        )
        if not fits:
            shown = " ".join("any" if side is None else str(side) for side in port.shape)
            expected = " ".join("n" if side is None else str(side) for side in due)
            raise ConfigError(
                f"input: the model's input {name!r} has the shape [{shown}], but layout "
                f"{declared.layout} and image_size {list(self._size)} (height, width) ask for "
                f"[{expected}]. Give the layout and size of the export."
            )
        if declared.one_at_a_time or "n" not in declared.layout:
            return 1
        return port.shape[0]

    def _named(self, output: AnyOnnxOutput) -> AnyOnnxOutput:
        """Return the declaration with the name of the only output where it gives none."""
        if isinstance(output, DetectionsOutput):
            return output
        return replace(
            output, name=_only("output.name", "output", output.name, list(self._model.outputs))
        )

    def _check_outputs(self) -> None:
        outputs, output = self._model.outputs, self._meaning.output
        for key, name in self._meaning.names_by_key().items():
            _only(f"output.{key}", "output", name, list(outputs))
        if isinstance(output, DetectionsOutput):
            class_numbers(output, self._meaning.num_classes)
            name = output.boxes or output.rows or ""
            if self._batch_size is None and len(outputs[name].shape) == 2:
                raise ConfigError(
                    "input.one_at_a_time: the model takes any number of images, but its boxes have "
                    "no axis of the batch, so that nobody knows whose they are. Set one_at_a_time: "
                    "true."
                )

    def _rehearse(self) -> None:
        """Run the model once on grey images, in the number in which it takes them.

        Raises:
            ConfigError: What comes out contradicts the declaration.
            WeightsError: The model fails, or returns numbers that are not finite.
        """
        canvas, _ = self._placed(torch.full((3, *self._size), _GREY))
        count = 2 if self._batch_size is None else 1
        with _told_of(self._path):
            found = self._run([canvas] * count)
        if not all(one.is_finite for one in found):
            raise WeightsError(
                f"{self._path}: the model returns numbers that are not finite for a grey image. "
                "Look at `input` (range, mean, std, dtype), or export the model again."
            )


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Put the file before the message of a declaration that does not fit it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _only(key: str, kind: str, given: str | None, names: Sequence[str]) -> str:
    """Return the given name, or that of the only one there is."""
    if given is None and len(names) == 1:
        return names[0]
    if given in names:
        return str(given)
    found = "missing" if given is None else f"the model has no {kind} {given!r}"
    raise ConfigError(f"{key}: {found}. {nearest_names(given or '', names)}")

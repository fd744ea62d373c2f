"""From the arrays of an ONNX model to boxes in pixels of its input, with what is refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert

from distildet.detectors.onnx_declaration import (
    AnyOnnxOutput,
    BoxesOutput,
    BoxFormat,
    BoxUnits,
    DetectionsOutput,
    GridOutput,
)
from distildet.detectors.stock_classes import coco_columns
from distildet.errors import ConfigError

MAX_ROWS = 1_000_000
"""Boxes of one image beyond which an output is no plausible one."""
CANDIDATES = 3000
"""Best boxes of an image, all classes together, that suppression looks at."""
# How far a probability may leave 0..1 by rounding, in float16 too.
_ROUNDING = 1e-2
# Fewer boxes than that say nothing about the convention of an output.
_MIN_BOXES = 3
# Numbers of a box in shares are at most 1, but for boxes that leave the image.
_SHARES_LIMIT = 2.0


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a model says about one image.

    Args:
        boxes: [n 4] float32, xyxy pixels of the input.
        scores: [n] float32.
        labels: [n] int64, 0-based.
        is_finite: Whether all numbers that count are finite.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    is_finite: bool = True


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a declaration says about the outputs of a model.

    Args:
        output: The declaration, with all names filled in.
        num_classes: Of the detector.
        input_size: (height, width) of the model's input.

    Raises:
        ConfigError: When outputs contradict it; the message has the key that does not fit.
    """

    output: AnyOnnxOutput
    num_classes: int
    input_size: tuple[int, int]

    def names(self) -> list[str]:
        """Return the names of the outputs that are read, by the keys that declare them."""
        return list(self.names_by_key().values())

    def names_by_key(self) -> dict[str, str]:
        """Return key of the declaration -> name of an output that is read."""
        is_finished = isinstance(self.output, DetectionsOutput)
        keys = ("boxes", "scores", "labels", "rows") if is_finished else ("name", "scores_name")
        named = {key: getattr(self.output, key, None) for key in keys}
        return {key: name for key, name in named.items() if name is not None}

    def split(self, arrays: Mapping[str, Tensor], num_images: int) -> list[dict[str, Tensor]]:
        """Return the outputs of each image, without the axis of the batch.

        Args:
            arrays: By name; float32, or integers.
            num_images: That went in.
        """
        images: list[dict[str, Tensor]] = [{} for _ in range(num_images)]
        for key, name in self.names_by_key().items():
            array, due = arrays[name], self._num_axes(key)
            if array.dim() == due and num_images == 1:
                array = array[None]
            if array.dim() != due + 1 or len(array) != num_images:
                raise ConfigError(
                    f"output.{key}: the output {name!r} has the shape {list(array.shape)} for "
                    f"{num_images} images. Accepted for layout {self.output.layout}: "
                    f"{_SHAPES[due]}."
                )
            for image, part in zip(images, array, strict=True):
                image[key] = part
        return images

    def read(self, image: Mapping[str, Tensor]) -> Found:
        """Return the boxes of one image above the score floor, suppressed and cut to the best.

        Args:
            image: Key of the declaration -> output, as `split` returns it.
        """
        if isinstance(self.output, DetectionsOutput):
            found = self._finished(image, self.output)
        elif isinstance(self.output, GridOutput):
            found = self._grid(image["name"], self.output)
        else:
            found = self._decoded(image, self.output)
        if not found.is_finite:
            return found
        self._refuse_other_conventions(found)
        if self.output.nms_iou == "off":
            kept = found.scores.argsort(descending=True, stable=True)
        else:
            kept = batched_nms(found.boxes, found.scores, found.labels, self.output.nms_iou)
        kept = kept[: self.output.max_detections]
        return Found(boxes=found.boxes[kept], scores=found.scores[kept], labels=found.labels[kept])

    def _num_axes(self, key: str) -> int:
        return 1 if isinstance(self.output, DetectionsOutput) and key in {"scores", "labels"} else 2

    def _grid(self, rows: Tensor, output: GridOutput) -> Found:
        height, width = self.input_size
        _refuse_columns(rows, 5 + self.num_classes, self.num_classes, "name", "5 numbers")
        cells = [(height // stride, width // stride, stride) for stride in output.strides]
        expected = sum(h * w for h, w, _ in cells)
        if len(rows) != expected:
            raise ConfigError(
                f"output.strides: {list(output.strides)} give {expected} rows for an input of "
                f"{height}x{width} pixels, and the output has {len(rows)}. Give the strides of the "
                "export, in the order of its rows."
            )
        # Rows of a level go row by row: cell -> (x, y) and stride.
        corners = torch.cat(
            [
                torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"), dim=-1)
                .flip(-1)
                .reshape(-1, 2)
                for h, w, _ in cells
            ]
        )  # [n, 2]
        strides = torch.cat([torch.full((h * w, 1), stride) for h, w, stride in cells])  # [n, 1]
        chosen = self._chosen(rows[:, 4:5], rows[:, 5:])
        row, stride = rows[chosen.rows], strides[chosen.rows]
        centres = (row[:, :2] + corners[chosen.rows]) * stride  # [m, 2]
        sides = row[:, 2:4].exp() * stride  # [m, 2]
        boxes = box_convert(torch.cat([centres, sides], dim=1), "cxcywh", "xyxy")
        return chosen.found(boxes, rows)

    def _decoded(self, image: Mapping[str, Tensor], output: BoxesOutput) -> Found:
        rows = image["name"]
        if output.transposed:
            rows = rows.T
        if output.scores_name is not None:
            scores = image["scores_name"].T if output.transposed else image["scores_name"]
            if rows.shape[1] != 4 or len(scores) != len(rows):
                raise ConfigError(
                    f"output.name: with scores_name the boxes must be [n 4] and the scores [n k]; "
                    f"found {list(rows.shape)} and {list(scores.shape)}. Look at the names, and at "
                    "`transposed`."
                )
            rows = torch.cat([rows, scores], dim=1)
        before = 5 if output.has_objectness else 4
        num_columns = self.num_classes + (output.background != "none")
        said = f"{before} numbers" + (" and a background" if output.background != "none" else "")
        _refuse_columns(rows, before + num_columns, self.num_classes, "name", said)
        classes, objectness = rows[:, before:], rows[:, 4:before]
        if output.scores == "softmax-logits":
            classes = classes.softmax(dim=1)
        elif output.scores == "logits":
            classes, objectness = classes.sigmoid(), objectness.sigmoid()
        if output.background != "none":
            classes = classes[:, 1:] if output.background == "first" else classes[:, :-1]
        chosen = self._chosen(objectness, classes)
        boxes = self._to_pixels(rows[chosen.rows, :4], output.format, output.units)
        return chosen.found(boxes, rows)

    def _chosen(self, objectness: Tensor, classes: Tensor) -> "_Chosen":
        """Return the best boxes above the floor; a row may be one for several classes.

        Args:
            objectness: [n 1], or [n 0] where there is none.
            classes: [n k], probabilities.
        """
        scores = classes * objectness if objectness.shape[1] else classes  # [n, k]
        for name, probs in (("objectness", objectness), ("classes", classes)):
            _refuse_improbable(probs, name)
        flat = scores.flatten()
        above = torch.where(flat > self.output.score_floor)[0]
        best = flat[above].argsort(descending=True, stable=True)[:CANDIDATES]
        places = above[best]
        return _Chosen(
            rows=places.div(self.num_classes, rounding_mode="floor"),
            labels=places % self.num_classes,
            scores=flat[places].clamp(max=1.0),
        )

    def _finished(self, image: Mapping[str, Tensor], output: DetectionsOutput) -> Found:
        if output.rows is None:
            boxes, scores, numbers = image["boxes"], image["scores"], image["labels"]
            if boxes.shape[1] != 4 or not len(boxes) == len(scores) == len(numbers):
                raise ConfigError(
                    "output.boxes: boxes, scores and labels must be [n 4], [n] and [n]; found "
                    f"{list(boxes.shape)}, {list(scores.shape)} and {list(numbers.shape)}. Look at "
                    "the names of the outputs."
                )
        else:
            rows = image["rows"]
            if rows.shape[1] != 6:
                raise ConfigError(
                    f"output.rows: found {rows.shape[1]} columns. Accepted: 6, which are the box, "
                    "its score and its label."
                )
            boxes, scores, numbers = rows[:, :4], rows[:, 4], rows[:, 5]
        scores = scores.float()
        _refuse_improbable(scores, "scores")
        # Not `>` alone: what is not a number would be dropped without a word.
        kept = ~(scores <= output.score_floor)
        boxes, scores, numbers = boxes[kept], scores[kept], numbers[kept]
        return Found(
            boxes=self._to_pixels(boxes.float(), output.format, output.units),
            scores=scores.clamp(max=1.0),
            labels=self._labels(numbers, output),
            is_finite=bool(boxes.isfinite().all() and scores.isfinite().all()),
        )

    def _labels(self, numbers: Tensor, output: DetectionsOutput) -> Tensor:
        """Return labels from 0 for the numbers that a model gives its classes."""
        known = class_numbers(output, self.num_classes)
        same = numbers[:, None].double() == torch.tensor(known).double()  # [n, k]
        if not same.any(dim=1).all():
            strange = numbers[~same.any(dim=1)][0].item()
            key = "category_ids" if output.category_ids else f"label_offset {output.label_offset}"
            raise ConfigError(
                f"output: a detection has the label {strange:g}. Accepted with {key}: "
                f"{_shown(known)}. Set label_offset (1 where 0 is the background) or category_ids."
            )
        return same.int().argmax(dim=1)

    def _to_pixels(self, boxes: Tensor, box_format: BoxFormat, units: BoxUnits) -> Tensor:
        """Return boxes as xyxy in pixels of the input."""
        corners: Tensor = box_convert(boxes, box_format, "xyxy") if box_format != "xyxy" else boxes
        if units == "pixels":
            return corners
        height, width = self.input_size
        return corners * corners.new_tensor([width, height, width, height])

    def _refuse_other_conventions(self, found: Found) -> None:
        """Refuse boxes that look as if the declaration were wrong; they would label nonsense."""
        output, boxes = self.output, found.boxes
        if isinstance(output, GridOutput) or len(boxes) < _MIN_BOXES:
            return
        height, width = self.input_size
        shown = f"such as {[round(number, 3) for number in boxes[0].tolist()]}"
        if output.units == "pixels" and boxes.abs().max() <= _SHARES_LIMIT:
            raise ConfigError(
                f"output.units: found 'pixels', but all boxes lie in {_SHARES_LIMIT:g} pixels, "
                f"{shown}: they seem to be shares of the input. Set units to shares."
            )
        if output.units == "shares" and (boxes[:, 2].min() > _SHARES_LIMIT * width):
            raise ConfigError(
                f"output.units: found 'shares', but all boxes lie outside of the input of "
                f"{height}x{width} pixels, {shown}: they seem to be pixels. Set units to pixels."
            )
        is_turned = (boxes[:, 2:] <= boxes[:, :2]).any(dim=1)
        if output.format == "xyxy" and 2 * int(is_turned.sum()) > len(boxes):
            raise ConfigError(
                f"output.format: found 'xyxy', but {int(is_turned.sum())} of {len(boxes)} boxes "
                f"end before they begin, {shown}: they seem to be of another format. Accepted: "
                "cxcywh, xywh, xyxy."
            )


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """Which rows of an output count, [m] each.

    Args:
        rows: Their numbers.
        labels: For which class.
        scores: With which score.
    """

    rows: Tensor
    labels: Tensor
    scores: Tensor

    def found(self, boxes: Tensor, all_rows: Tensor) -> Found:
        return Found(
            boxes=boxes,
            scores=self.scores,
            labels=self.labels,
            is_finite=bool(all_rows.isfinite().all() and boxes.isfinite().all()),
        )


def class_numbers(output: DetectionsOutput, num_classes: int) -> Sequence[int]:
    """Return the number that a model gives to each class, in the order of the class list.

    Args:
        output: The declaration.
        num_classes: Of the detector.

    Raises:
        ConfigError: category_ids are not as many as the classes.
    """
    if output.category_ids is None:
        return range(output.label_offset, output.label_offset + num_classes)
    ids = tuple(coco_columns()) if output.category_ids == "coco" else output.category_ids
    if len(ids) != num_classes:
        raise ConfigError(
            f"output.category_ids: found {len(ids)} numbers, but there are {num_classes} classes. "
            "Accepted: one for each class, in their order."
        )
    return ids


def _refuse_columns(rows: Tensor, due: int, num_classes: int, key: str, before: str) -> None:
    if len(rows) > MAX_ROWS:
        raise ConfigError(
            f"output.{key}: found {len(rows)} boxes of one image. Accepted: at most {MAX_ROWS}; "
            "look at `transposed`, and at the name of the output."
        )
    if rows.shape[1] != due:
        found = rows.shape[1] - due + num_classes
        hint = " and at `transposed`" if rows.shape[1] > len(rows) else ""
        raise ConfigError(
            f"output.{key}: found rows of {rows.shape[1]} numbers, that is {before} and {found} "
            f"classes, but `classes` has {num_classes} names, for which {due} are due. Look at "
            f"`classes`, the layout, has_objectness, background{hint}."
        )


def _refuse_improbable(probs: Tensor, what: str) -> None:
    largest = probs[probs.isfinite()].max() if bool(probs.isfinite().any()) else torch.zeros(())
    if largest > 1 + _ROUNDING:
        raise ConfigError(
            f"output.scores: found {what} of up to {float(largest):.4g}, which are "
            "no probabilities. Accepted: up to 1; set scores to logits (layout boxes), or look at "
            "the order of the columns."
        )


def _shown(numbers: Sequence[int]) -> str:
    if numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}..{numbers[-1]}"
    return ", ".join(map(str, numbers))


_SHAPES = {
    1: "[batch n], or [n] of one image",
    2: "[batch n columns], or without batch of one image",
}

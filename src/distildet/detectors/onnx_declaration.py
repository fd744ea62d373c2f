"""What somebody declares about an ONNX detector: how it sees images, what its outputs mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from distildet.errors import ConfigError

Triple: TypeAlias = tuple[float, float, float]
BoxFormat: TypeAlias = Literal["xyxy", "cxcywh", "xywh"]
BoxUnits: TypeAlias = Literal["pixels", "shares"]


@dataclass(frozen=True, kw_only=True)
class OnnxInput:
    """How a model sees an image.

    Args:
        layout: Order of the axes; without "n" there is no axis of the batch.
        colour: Order of the channels.
        range: Value of white before mean and std.
        resize: How an image comes into the rectangle of the input.
        pad: Value 0..255 of what a letterbox leaves free, before mean and std; "zero" is 0 after
            them. Needed with a letterbox, refused with "stretch".
        mean: Subtracted, in the order of the channels and in units of `range`.
        std: Divided by after that.
        dtype: Type of the numbers.
        name: Of the input; None where the model has only this one.
        sizes: Name of a second input that is given the (width, height) of the first as [b 2] int64,
            as in exports of RT-DETR; None where there is none.
        one_at_a_time: Whether images go through the model one by one although its batch may have
            any number.

    Raises:
        ConfigError: A value has no meaning.
    """

    layout: Literal["nchw", "nhwc", "chw", "hwc"]
    colour: Literal["rgb", "bgr"]
    range: Literal[1, 255]
    resize: Literal["letterbox-top-left", "letterbox-centre", "stretch"]
    pad: float | Literal["zero"] | None = None
    mean: Triple = (0.0, 0.0, 0.0)
    std: Triple = (1.0, 1.0, 1.0)
    dtype: Literal["float32", "float16", "uint8"] = "float32"
    name: str | None = None
    sizes: str | None = None
    one_at_a_time: bool = False

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        if self.resize == "stretch" and self.pad is not None:
            raise ConfigError(
                f"pad is {self.pad!r}, but with resize: stretch nothing is left free. Remove pad, "
                "or set resize to letterbox-top-left or letterbox-centre."
            )
        if self.resize != "stretch" and self.pad is None:
            raise ConfigError(
                f"pad is missing, which resize: {self.resize} needs. Accepted: a number 0..255 "
                "(the grey of what is left free, such as 114), or zero (0 after mean and std)."
            )
        if isinstance(self.pad, (int, float)) and not 0 <= self.pad <= 255:
            raise ConfigError(f"pad is {self.pad}. Accepted: 0..255, or zero.")
        if not all(math.isfinite(number) and number > 0 for number in self.std):
            raise ConfigError(f"std is {list(self.std)}. Accepted: three numbers above 0.")
        if not all(map(math.isfinite, self.mean)):
            raise ConfigError(f"mean is {list(self.mean)}. Accepted: three finite numbers.")
        is_changed = self.range != 255 or any(self.mean) or self.std != (1.0, 1.0, 1.0)
        if self.dtype == "uint8" and is_changed:
            raise ConfigError(
                "dtype is uint8, which holds 0..255 as they are. Accepted with it: range 255, and "
                "neither mean nor std."
            )


@dataclass(frozen=True, kw_only=True)
class OnnxOutput:
    """What is done with the boxes of a model, whatever its output looks like.

    Args:
        score_floor: Boxes at or below it are dropped, 0..1.
        nms_iou: Threshold of suppression among boxes of a class, 0..1; "off" suppresses none.
        max_detections: Best boxes kept of an image, at least 1.

    Raises:
        ConfigError: A value has no meaning.
    """

    layout: ClassVar[str]

    score_floor: float = 0.05
    nms_iou: float | Literal["off"] = 0.5
    max_detections: int = 300

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 <= self.score_floor < 1:
            raise ConfigError(f"score_floor is {self.score_floor}. Accepted: 0 to below 1.")
        if self.nms_iou != "off" and not 0 < self.nms_iou <= 1:
            raise ConfigError(f"nms_iou is {self.nms_iou}. Accepted: above 0 to 1, or off.")
        if self.max_detections < 1:
            raise ConfigError(f"max_detections is {self.max_detections}. Accepted: 1 or more.")


@dataclass(frozen=True, kw_only=True)
class GridOutput(OnnxOutput):
    """The grid of YOLOX as exported without decoding: [b n 5+k], one row a cell, finest first.

    In a row: (cx + column) * stride and (cy + row) * stride are the centre, exp(w) * stride and
    exp(h) * stride the sides in pixels of the input; then objectness and class probabilities, whose
    product is the score.

    Args:
        strides: Of the grids, in the order of the rows.
        name: Of the output; None where the model has only this one.
    """

    layout: ClassVar[str] = "grid"

    strides: tuple[int, ...] = (8, 16, 32)
    name: str | None = None

    def __post_init__(self) -> None:
        """Refuse strides that are none."""
        super().__post_init__()
        if not self.strides or min(self.strides) < 1:
            raise ConfigError(
                f"strides is {list(self.strides)}. Accepted: whole numbers of 1 or more, such as "
                "[8, 16, 32]."
            )


@dataclass(frozen=True, kw_only=True)
class BoxesOutput(OnnxOutput):
    """Decoded boxes before suppression: [b n 4+k], with objectness [b n 5+k].

    Args:
        format: What the four numbers of a box are.
        units: Pixels of the input, or shares of its sides (0..1).
        scores: Probabilities; logits of a sigmoid each; or logits of one softmax over all classes.
        has_objectness: Whether a column before the classes says whether there is an object; the
            score is then its product with the class.
        transposed: Whether the output is [b 4+k n].
        background: Where the classes have a column for background besides.
        name: Of the output; None where the model has only this one.
        scores_name: Of an output [b n k] with the scores, where that of `name` is [b n 4].
    """

    layout: ClassVar[str] = "boxes"

    format: BoxFormat
    units: BoxUnits
    scores: Literal["probs", "logits", "softmax-logits"]
    has_objectness: bool = False
    transposed: bool = False
    background: Literal["none", "first", "last"] = "none"
    name: str | None = None
    scores_name: str | None = None

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        if self.scores_name is not None and self.name is None:
            raise ConfigError(
                f"name is missing, which scores_name {self.scores_name!r} needs. Give the name of "
                "the output that has the boxes."
            )
        if self.has_objectness and self.scores == "softmax-logits":
            raise ConfigError(
                "has_objectness is true with scores: softmax-logits. Accepted with objectness: "
                "probs, logits."
            )


@dataclass(frozen=True, kw_only=True)
class DetectionsOutput(OnnxOutput):
    """Finished detections: outputs boxes [b n 4], scores [b n] and labels [b n]; or rows [b n 6].

    The axis of the batch may be missing, as in exports of torchvision.

    Args:
        format: What the four numbers of a box are.
        units: Pixels of the input, or shares of its sides (0..1).
        boxes: Name of the output with the boxes.
        scores: Name of the output with the scores.
        labels: Name of the output with the labels.
        rows: Name of an output whose rows are box, score and label, in place of the three.
        label_offset: The number of the first class: 1 where 0 is the background.
        category_ids: The number of each class, in the order of the classes, where they do not
            count up; "coco" for COCO's 80 ids of 1..90.
    """

    layout: ClassVar[str] = "detections"

    format: BoxFormat
    units: BoxUnits
    boxes: str | None = None
    scores: str | None = None
    labels: str | None = None
    rows: str | None = None
    label_offset: int = 0
    category_ids: tuple[int, ...] | Literal["coco"] | None = None
    nms_iou: float | Literal["off"] = "off"

    def __post_init__(self) -> None:
        """Refuse values that contradict each other."""
        super().__post_init__()
        names = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        given = [key for key, name in names.items() if name is not None]
        if len(given) != (0 if self.rows else len(names)):
            found = ", ".join([*given, *(["rows"] if self.rows else [])]) or "none of them"
            raise ConfigError(
                f"found {found}. Accepted: the names of the three outputs boxes, scores and "
                "labels, or of one output rows alone."
            )
        if self.label_offset and self.category_ids is not None:
            raise ConfigError(
                f"found label_offset {self.label_offset} beside category_ids. Accepted: one "
                "of them."
            )
        ids = self.category_ids
        if isinstance(ids, Sequence) and not isinstance(ids, str) and len({*ids}) < len(ids):
            raise ConfigError(f"category_ids is {list(ids)!r:.80}. Accepted: numbers that differ.")


AnyOnnxOutput: TypeAlias = GridOutput | BoxesOutput | DetectionsOutput

"""The kinds of teachers that a recipe may name: a detector of ours, an ONNX file, a file of boxes.

What the values of an ONNX teacher mean together is checked where they are used, by the classes of
`distildet.detectors.onnx_declaration`.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from distildet.classes import ClassList
from distildet.detectors.onnx_declaration import (
    AnyOnnxOutput,
    BoxesOutput,
    DetectionsOutput,
    GridOutput,
    OnnxInput,
)
from distildet.errors import ClassMapError, ConfigError
from distildet.recipes.source_schema import TeacherConfig
from distildet.recipes.values import (
    Boolean,
    Integer,
    NonePossible,
    NotEmpty,
    Number,
    OptionalPath,
    RecipePath,
    Section,
    complete_fault,
    is_number_like,
)

COCO: Literal["coco"] = "coco"
_Side = Annotated[Integer, Field(ge=32, le=4096)]
_OptionalName = Annotated[str | None, NonePossible]


def _check_white(value: int) -> int:
    if value not in {1, 255}:
        raise PydanticCustomError("white", "1 or 255")
    return value


def _kind_of_classes(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "names"
    return COCO if value == COCO else "file"


def _kind_of_number(value: Any) -> str:
    return "number" if is_number_like(value) else "word"


def _kind_of_sides(value: Any) -> str:
    return "several" if isinstance(value, list | tuple) else "one"


_ClassNames = Annotated[
    Annotated[Literal["coco"], Tag("coco")]
    | Annotated[tuple[str, ...], Tag("names")]
    | Annotated[RecipePath, Tag("file")],
    Discriminator(_kind_of_classes),
]
_Size = Annotated[
    Annotated[_Side, Tag("one")] | Annotated[tuple[_Side, _Side], Tag("several")],
    Discriminator(_kind_of_sides),
]
_White = Annotated[Integer, AfterValidator(_check_white)]
_Pad = Annotated[
    Annotated[Number, Tag("number")] | Annotated[Literal["zero"], Tag("word")],
    Discriminator(_kind_of_number),
]
_NmsIou = Annotated[
    Annotated[Number, Tag("number")] | Annotated[Literal["off"], Tag("word")],
    Discriminator(_kind_of_number),
]
_CategoryIds = Annotated[
    Annotated[Literal["coco"], Tag("one")] | Annotated[tuple[Integer, ...], Tag("several")],
    Discriminator(_kind_of_sides),
]


class BundleTeacherConfig(TeacherConfig):
    """A detector of ours, or stock weights of torchvision."""

    TAG: ClassVar[str] = "path"

    detector: RecipePath = Field(
        description="Bundle folder of a trained detector, or .pth file of a stock torchvision one; "
        "or onnx, or results, with the keys of these."
    )
    classes: Annotated[tuple[str, ...] | None, NonePossible] = Field(
        default=None,
        description="Class names of a .pth file, in the order of its columns; not needed for "
        "torchvision's COCO files, refused for a bundle.",
    )
    image_size: Annotated[_Side | None, NonePossible] = Field(
        default=None,
        description="Longer side in pixels of what the detector of a .pth file sees, 32..4096; "
        "refused for a bundle.",
    )


class OnnxInputConfig(Section):
    """How an ONNX model sees an image."""

    layout: Literal["nchw", "nhwc", "chw", "hwc"] = Field(
        description="Order of the axes of the input; chw and hwc have no axis of the batch."
    )
    colour: Literal["rgb", "bgr"] = Field(description="Order of the channels.")
    range: _White = Field(description="Value of white before mean and std: 1 or 255.")
    resize: Literal["letterbox-top-left", "letterbox-centre", "stretch"] = Field(
        description="How an image comes into the input: scaled with its shape and laid into the "
        "top left corner or the centre, or stretched."
    )
    pad: Annotated[_Pad | None, NonePossible] = Field(
        default=None,
        description="What a letterbox leaves free: 0..255 before mean and std, or zero, which is 0 "
        "after them; needed with a letterbox.",
    )
    mean: tuple[Number, Number, Number] = Field(
        default=(0.0, 0.0, 0.0),
        description="Subtracted from the channels in their order, in units of `range`.",
    )
    std: tuple[Number, Number, Number] = Field(
        default=(1.0, 1.0, 1.0), description="Divided by after that."
    )
    dtype: Literal["float32", "float16", "uint8"] = Field(
        default="float32", description="Type of the numbers."
    )
    name: _OptionalName = Field(
        default=None, description="Name of the input; not needed where there is one alone."
    )
    sizes: _OptionalName = Field(
        default=None,
        description="Name of a second input that is given (width, height) of the first as int64.",
    )
    one_at_a_time: Boolean = Field(
        default=False, description="Run one image at a time, whatever the model takes."
    )

    def declared(self) -> OnnxInput:
        """Return what is declared.

        Raises:
            ConfigError: Values contradict each other.
        """
        return OnnxInput(**self.model_dump())


class _OutputConfig(Section):
    """What is done with the boxes of any model."""

    score_floor: Number = Field(
        default=0.05, description="Boxes at or below this score are dropped."
    )
    nms_iou: _NmsIou = Field(
        default=0.5, description="Threshold of suppression among boxes of a class, or off."
    )
    max_detections: Integer = Field(default=300, description="Best boxes kept of an image.")


class GridOutputConfig(_OutputConfig):
    """The grid of YOLOX as it is exported without decoding."""

    layout: Literal["grid"] = Field(description="grid: undecoded YOLOX, [batch n 5+k].")
    strides: Annotated[tuple[Integer, ...], NotEmpty] = Field(
        default=(8, 16, 32), description="Strides of the grids, in the order of the rows."
    )
    name: _OptionalName = Field(
        default=None, description="Name of the output; not needed where there is one alone."
    )


class BoxesOutputConfig(_OutputConfig):
    """Decoded boxes before suppression."""

    layout: Literal["boxes"] = Field(
        description="boxes: decoded boxes with a column for each class, before suppression."
    )
    format: Literal["xyxy", "cxcywh", "xywh"] = Field(description="What the four numbers are.")
    units: Literal["pixels", "shares"] = Field(
        description="pixels of the input, or shares of its sides (0..1)."
    )
    scores: Literal["probs", "logits", "softmax-logits"] = Field(
        description="probs; logits of a sigmoid for each class; or logits of one softmax over all."
    )
    has_objectness: Boolean = Field(
        default=False, description="Whether a column before the classes tells an object."
    )
    transposed: Boolean = Field(
        default=False, description="Whether the output is [batch 4+k n], as of YOLOv8."
    )
    background: Literal["none", "first", "last"] = Field(
        default="none", description="Where the classes have a column for background."
    )
    name: _OptionalName = Field(
        default=None, description="Name of the output; not needed where there is one alone."
    )
    scores_name: _OptionalName = Field(
        default=None,
        description="Name of an output with the scores, where they are apart from the boxes.",
    )


class DetectionsOutputConfig(_OutputConfig):
    """Finished detections."""

    layout: Literal["detections"] = Field(
        description="detections: finished ones, each with one score and label."
    )
    format: Literal["xyxy", "cxcywh", "xywh"] = Field(description="What the four numbers are.")
    units: Literal["pixels", "shares"] = Field(
        description="pixels of the input, or shares of its sides (0..1)."
    )
    boxes: _OptionalName = Field(default=None, description="Name of the output with the boxes.")
    scores: _OptionalName = Field(default=None, description="Name of the output with the scores.")
    labels: _OptionalName = Field(default=None, description="Name of the output with the labels.")
    rows: _OptionalName = Field(
        default=None,
        description="Name of an output [batch n 6] of box, score, label; in place of the three.",
    )
    label_offset: Integer = Field(
        default=0, description="Number of the first class: 1 where 0 is the background."
    )
    category_ids: Annotated[_CategoryIds | None, NonePossible] = Field(
        default=None,
        description="Number of each class, in the order of `classes`; coco for COCO's ids.",
    )
    nms_iou: _NmsIou = Field(
        default="off", description="Threshold of suppression among boxes of a class, or off."
    )


OutputConfig: TypeAlias = GridOutputConfig | BoxesOutputConfig | DetectionsOutputConfig
_DECLARED: dict[str, type[AnyOnnxOutput]] = {
    one.layout: one for one in (GridOutput, BoxesOutput, DetectionsOutput)
}


def declared_output(config: OutputConfig) -> AnyOnnxOutput:
    """Return what is declared.

    Raises:
        ConfigError: Values contradict each other.
    """
    return _DECLARED[config.layout](**config.model_dump(exclude={"layout"}))


def _refuse_contradictions(declared: Callable[[], object]) -> None:
    try:
        declared()
    except ConfigError as error:
        raise complete_fault(str(error)) from error


class OnnxTeacherConfig(TeacherConfig):
    """A detector in an ONNX file, with all that the file does not say."""

    TAG: ClassVar[str] = "onnx"

    detector: Literal["onnx"] = Field(description="onnx: a model file that ONNX Runtime computes.")
    weights: RecipePath = Field(description="The ONNX file.")
    classes: _ClassNames = Field(
        description="Class names in the order of the labels: a list, a text file with one name a "
        "line, or coco for COCO's 80."
    )
    image_size: _Size = Field(
        description="Side of the square input, or [height, width]; 32..4096 pixels."
    )
    input: OnnxInputConfig = Field(description="How the model sees an image.")
    output: Annotated[OutputConfig, Field(discriminator="layout")] = Field(
        description="What its outputs mean."
    )

    @field_validator("classes")
    @classmethod
    def _are_names(cls, value: Any) -> Any:
        if isinstance(value, tuple):
            try:
                ClassList(value)
            except ClassMapError as error:
                raise complete_fault(str(error)) from error
        return value

    @field_validator("input")
    @classmethod
    def _input_has_a_meaning(cls, value: OnnxInputConfig) -> OnnxInputConfig:
        _refuse_contradictions(value.declared)
        return value

    @field_validator("output")
    @classmethod
    def _output_has_a_meaning(cls, value: OutputConfig) -> OutputConfig:
        _refuse_contradictions(lambda: declared_output(value))
        return value


class ResultsTeacherConfig(TeacherConfig):
    """A file of boxes that another program has found."""

    TAG: ClassVar[str] = "results"

    detector: Literal["results"] = Field(description="results: a file of boxes.")
    file: RecipePath = Field(
        description="COCO results list (JSON), or a COCO file whose annotations have scores."
    )
    images: OptionalPath = Field(
        default=None,
        description="Of a results list the COCO file that names its images and categories.",
    )


def _kind_of_teacher(value: Any) -> str:
    found = value.get("detector") if isinstance(value, dict) else getattr(value, "detector", None)
    known = {OnnxTeacherConfig.TAG, ResultsTeacherConfig.TAG}
    return str(found) if isinstance(found, str) and found in known else BundleTeacherConfig.TAG


def type_of_entry(value: Any) -> type[TeacherConfig]:
    """Return the kind of an entry of `teachers`, given as a mapping of texts."""
    kinds = (BundleTeacherConfig, OnnxTeacherConfig, ResultsTeacherConfig)
    return {kind.TAG: kind for kind in kinds}[_kind_of_teacher(value)]


AnyTeacherConfig: TypeAlias = BundleTeacherConfig | OnnxTeacherConfig | ResultsTeacherConfig
TeacherEntry = Annotated[
    Annotated[BundleTeacherConfig, Tag(BundleTeacherConfig.TAG)]
    | Annotated[OnnxTeacherConfig, Tag(OnnxTeacherConfig.TAG)]
    | Annotated[ResultsTeacherConfig, Tag(ResultsTeacherConfig.TAG)],
    Discriminator(_kind_of_teacher),
]
"""One entry of `teachers`."""

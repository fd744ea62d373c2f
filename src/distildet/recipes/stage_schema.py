"""The stages of a recipe: labeling by the teacher and training of the student."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from distildet.recipes.cache_schema import TeacherCache
from distildet.recipes.distill_schema import DistillConfig
from distildet.recipes.streams import Stream, TargetKind, counts_by_stream
from distildet.recipes.values import (
    Init,
    Integer,
    NonePossible,
    NotEmpty,
    Number,
    Section,
    Share,
    Threshold,
    complete_fault,
)

Streams = dict[Stream, Annotated[Number, Field(gt=0)]]
_IGNORE_FLOOR = 0.1


def _numbers(threshold: str | float | Mapping[str, float]) -> list[float]:
    """Return the numbers in a threshold: none in auto, several in a mapping."""
    if isinstance(threshold, Mapping):
        return list(threshold.values())
    return [] if isinstance(threshold, str) else [threshold]


class FusionConfig(Section):
    """How the boxes of several teachers become one set."""

    method: Literal["wbf", "nms"] = Field(
        default="wbf",
        description="wbf (the mean of the boxes of an object, its score a mean over the teachers "
        "that know the class) or nms (the strongest box of an object, as it is).",
    )
    iou: Annotated[Number, Field(gt=0, lt=1)] = Field(
        default=0.55, description="Overlap above which boxes of a class are one object."
    )
    duplicates_iou: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=0.9,
        description="Of boxes of any classes that overlap more than this the best score stays; "
        "1 = off.",
    )


class LabelStage(Section):
    """Stage in which teachers, or the student so far, label images."""

    stage: Literal["label"] = Field(description="label: teachers or student label images.")
    images: Stream = Field(default="all", description="Which images: unlabeled, labeled or all.")
    by: Literal["teachers", "student", "all"] = Field(
        default="teachers",
        description="Who labels: teachers, student (of the train stage before), or all of them.",
    )
    calibration: Literal["auto", "none", "temperature", "isotonic", "rank"] = Field(
        default="auto",
        description="How scores are made comparable before several label together: none; "
        "temperature or isotonic (curves fitted on the labeled images); rank (the scale of all, by "
        "rank); auto: none for one, else temperature, or rank where labeled images or boxes of "
        "them lack.",
    )
    fusion: FusionConfig = Field(
        default=FusionConfig(), description="How the boxes of several become one set."
    )
    threshold: Threshold = Field(
        default="auto",
        description="Score from which a detection becomes a target: auto (for each class as many "
        "boxes an image as the labels have), one number, or a number for each class name.",
    )
    ignore_floor: Share = Field(
        default_factory=lambda stage: min([_IGNORE_FLOOR, *_numbers(stage["threshold"])]),
        description="Detections between this score and the threshold become ignore regions; those "
        "below it are dropped. By default 0.1, or the lowest threshold where that is smaller.",
    )
    fallback_threshold: Share = Field(
        default=0.4, description="Threshold of classes for which there is no other."
    )
    batch_size: Annotated[Integer, Field(ge=1)] = Field(
        default=16, description="Images a teacher sees at once."
    )
    weighting: Literal["hard", "score", "soft"] = Field(
        default="hard",
        description="What the score of a pseudo-label does: hard (nothing), score (it is the "
        "weight in classification and box loss), or soft (it is what the student's score of that "
        "class shall become; weight 1).",
    )
    keep_empty: Share = Field(
        default=0.1,
        description="Share kept, as background, of the images in which no pseudo-label is left.",
    )
    on_bad_image: Literal["error", "quarantine"] = Field(
        default="quarantine",
        description="What an image that cannot be decoded does: error (ends the run) or quarantine "
        "(is listed in quarantine.jsonl and left out of training).",
    )
    max_bad_fraction: Share = Field(
        default=0.01,
        description="Largest share of the images in quarantine, rounded up to whole images; with "
        "more the run ends.",
    )

    @field_validator("ignore_floor")
    @classmethod
    def _lies_below_the_thresholds(cls, value: float, info: ValidationInfo) -> float:
        numbers = _numbers(info.data.get("threshold", "auto"))
        if value > min(numbers, default=1.0):
            raise complete_fault(
                f"found {value}, above the threshold {min(numbers)}. "
                f"Accepted: 0..{min(numbers)}, or set a higher threshold."
            )
        return value

    @field_validator("fallback_threshold")
    @classmethod
    def _lies_above_the_floor(cls, value: float, info: ValidationInfo) -> float:
        floor = info.data.get("ignore_floor", 0.0)
        if value < floor:
            raise complete_fault(f"found {value}. Accepted: ignore_floor {floor} .. 1.")
        return value


class OptimizerConfig(Section):
    """How a train stage updates the weights."""

    name: Literal["adamw", "sgd"] = Field(default="adamw", description="adamw or sgd.")
    lr: Annotated[Number, Field(gt=0)] = Field(description="Highest learning rate of the stage.")
    backbone_lr_factor: Annotated[Number, Field(ge=0)] = Field(
        default=1.0,
        description="Factor of the backbone's learning rate; 0 keeps its weights (but not its "
        "batch-norm statistics, see batch_norm).",
    )
    weight_decay: Annotated[Number, Field(ge=0)] = Field(
        default=0.02, description="Weight decay; norms and biases have none."
    )
    momentum: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.9, description="Momentum of sgd, first beta of adamw."
    )


class ScheduleConfig(Section):
    """How the learning rate moves over a train stage."""

    warmup: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.1, description="Share of the stage in which the learning rate rises linearly."
    )
    decay: Literal["cosine", "constant"] = Field(
        default="cosine", description="Course after the warm-up: cosine (to 0) or constant."
    )


class AugmentationConfig(Section):
    """Random changes of the training images."""

    flip: Share = Field(default=0.5, description="Probability of a horizontal mirror.")
    zoom: tuple[Annotated[Number, Field(gt=0)], Annotated[Number, Field(gt=0)]] = Field(
        default=(0.75, 1.6), description="Smallest and largest random scale; [1, 1] = off."
    )
    colour: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.25, description="Strength of changes of brightness and colour; 0 = off."
    )

    @field_validator("zoom")
    @classmethod
    def _in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise complete_fault(
                f"found {list(value)}. Accepted: the smaller scale first, then the larger."
            )
        return value


def _kind_of_augmentation(value: Any) -> str | None:
    if isinstance(value, dict | AugmentationConfig):
        return "settings"
    return "none" if value == "none" else None


Augmentation = Annotated[
    Annotated[AugmentationConfig, Tag("settings")] | Annotated[Literal["none"], Tag("none")],
    Discriminator(
        _kind_of_augmentation,
        custom_error_type="augmentation",
        custom_error_message="none, or a mapping with flip, zoom and colour",
    ),
]


class TrainStage(Section):
    """Stage in which the student learns."""

    stage: Literal["train"] = Field(description="train: the student learns.")
    images: Annotated[Streams, NotEmpty] = Field(
        default={"labeled": 1.0},
        description="Streams (labeled, unlabeled, all) and their ratio inside each batch.",
    )
    targets: dict[Stream, TargetKind] = Field(
        default={},
        description="For each stream human or pseudo; by default human for labeled, else pseudo.",
    )
    distill: tuple[DistillConfig, ...] = Field(
        default=(),
        description="Distillation losses beside the detector's own, each a mapping with loss, "
        "weight, schedule and options of the loss.",
    )
    init: Init = Field(
        default="previous",
        description="Weights to start from: previous (stage), pretrained (backbone), teacher (neck "
        "and head, where shapes agree; of several that of the losses, or the first), or a path. "
        "The first train stage starts from pretrained "
        "unless something else is given.",
    )
    epochs: Annotated[Annotated[Number, Field(gt=0)] | None, NonePossible] = Field(
        default=None,
        description="Length in passes of the stream that has most images, before a label stage "
        "leaves some out; give this or steps.",
    )
    steps: Annotated[Annotated[Integer, Field(ge=1)] | None, NonePossible] = Field(
        default=None, description="Length in optimizer steps; give this or epochs."
    )
    batch_size: Annotated[Integer, Field(ge=1)] = Field(
        default=16, description="Images of an optimizer step."
    )
    accumulate: Annotated[Integer, Field(ge=1)] = Field(
        default=1,
        description="Parts in which a batch is computed one after the other, to save memory. "
        "The losses stay those of the whole batch; BatchNorm in train mode sees each part alone.",
    )
    optimizer: OptimizerConfig = Field(description="How the weights are updated.")
    schedule: ScheduleConfig = Field(
        default=ScheduleConfig(), description="Course of the learning rate."
    )
    ema: Annotated[Number, Field(ge=0, lt=1)] = Field(
        default=0.998, description="Decay of the moving average of the weights; 0 = off."
    )
    clip: Annotated[Number, Field(ge=0)] = Field(
        default=10.0, description="Largest norm of the gradient; 0 = off."
    )
    batch_norm: Literal["train", "frozen"] = Field(
        default="train", description="Whether batch-norm statistics follow the batches."
    )
    augmentation: Augmentation = Field(
        default=AugmentationConfig(), description="Random changes of the images, or none."
    )
    teacher_cache: TeacherCache = Field(
        default=None,
        description="Store what the teacher says about a fixed number of views of each image and "
        "read it at every step: true, false, or a mapping with views and top_k.",
    )
    evaluations: Annotated[Integer, Field(ge=1)] = Field(
        default=4, description="Validations, evenly spread over the stage, the last at its end."
    )
    checkpoint_every: Annotated[Integer, Field(ge=1)] = Field(
        default=200, description="Steps between checkpoints."
    )

    @field_validator("targets")
    @classmethod
    def _targets_fit_the_streams(
        cls, value: dict[Stream, TargetKind], info: ValidationInfo
    ) -> dict[Stream, TargetKind]:
        if "images" not in info.data:
            return value
        streams: Mapping[Stream, float] = info.data["images"]
        for stream, kind in value.items():
            if stream not in streams:
                raise complete_fault(
                    f"found the stream {stream!r}, which `images` does not have. "
                    f"Accepted: {', '.join(sorted(streams))}."
                )
            if kind == "human" and stream != "labeled":
                raise complete_fault(
                    f"found human targets for {stream!r}. Only the stream labeled has human "
                    "targets; here pseudo is accepted."
                )
        defaults: dict[Stream, TargetKind] = {
            stream: "human" if stream == "labeled" else "pseudo" for stream in streams
        }
        return {**defaults, **value}

    @field_validator("steps")
    @classmethod
    def _one_length(cls, value: int | None, info: ValidationInfo) -> int | None:
        if "epochs" not in info.data:
            return value
        if (value is None) == (info.data["epochs"] is None):
            found = "neither epochs nor steps" if value is None else "both epochs and steps"
            raise complete_fault(
                f"found {found}. Exactly one of them is accepted; the other is left out or null."
            )
        return value

    @field_validator("batch_size")
    @classmethod
    def _every_stream_has_an_image(cls, value: int, info: ValidationInfo) -> int:
        for stream, count in counts_by_stream(info.data.get("images", {}), value).items():
            if count == 0:
                raise complete_fault(
                    f"a batch of {value} has no image of the stream {stream!r}. "
                    "Raise batch_size, or the ratio of that stream in `images`."
                )
        return value

    @field_validator("accumulate")
    @classmethod
    def _divides_the_batch(cls, value: int, info: ValidationInfo) -> int:
        batch_size = info.data.get("batch_size", value)
        if batch_size % value:
            raise complete_fault(f"found {value}. Accepted: a divisor of batch_size {batch_size}.")
        return value

    @property
    def teacher(self) -> int:
        """Place in `teachers` of the one that the losses learn from, and init copies."""
        return next((t.teacher for t in self.distill if t.teacher is not None), 0)

    def counts(self) -> dict[Stream, int]:
        """Return how many images of each stream a batch has, by largest remainder."""
        return counts_by_stream(self.images, self.batch_size)

    def steps_for(self, stream_sizes: Mapping[str, int]) -> int:
        """Return the number of optimizer steps.

        Args:
            stream_sizes: Stream -> number of images in it, for every stream of the stage.

        Returns:
            `steps`, or what `epochs` passes of the stream that has most images come to, rounded,
            at least 1.
        """
        if self.epochs is None:
            return self.steps or 1
        counts = self.counts()
        longest = max(counts, key=lambda stream: stream_sizes[stream])
        return max(1, round(self.epochs * stream_sizes[longest] / counts[longest]))


Stage = Annotated[LabelStage | TrainStage, Field(discriminator="stage")]

"""The parts of a recipe that name what is there: images, teachers and the student's family."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from distildet.recipes.values import (
    Boolean,
    Integer,
    NonePossible,
    NotEmpty,
    Number,
    OptionalPath,
    Pretrained,
    RecipePath,
    Section,
    complete_fault,
)

ANNOTATIONS_BY_FORMAT = {"coco": "file", "voc": "folder", "yolo": "file"}
"""What `annotations` is in each format that has them."""


class SourceConfig(Section):
    """Where images, and their annotations if they have any, come from."""

    format: Literal["coco", "voc", "yolo", "folder"] = Field(
        description="coco: images and one JSON file; voc: images and a folder of XML files; yolo: "
        "images, label files and a data.yaml; folder: images without annotations. Where images "
        "are used as unlabeled, their annotations are not looked at: all images of the folder are "
        "taken, of coco those that the JSON file names."
    )
    images: RecipePath = Field(description="Folder of the images; sample ids are relative to it.")
    annotations: OptionalPath = Field(
        default=None,
        description="Of coco the JSON file, of voc the folder of XML files, of yolo the data.yaml; "
        "refused by folder.",
    )
    list: OptionalPath = Field(
        default=None,
        description="Text file with one image a line, relative to `images` (voc: also without "
        "suffix); only these are used.",
    )
    strict: Boolean = Field(
        default=False,
        description="Stop at a record that cannot be used, instead of dropping and counting it.",
    )

    @field_validator("annotations")
    @classmethod
    def _fits_the_format(cls, value: Any, info: ValidationInfo) -> Any:
        kind = info.data.get("format")
        if kind in ANNOTATIONS_BY_FORMAT and value is None:
            needed = ANNOTATIONS_BY_FORMAT[kind]
            raise complete_fault(f"missing. Format {kind!r} needs a {needed} of annotations.")
        if kind == "folder" and value is not None:
            accepted = ", ".join(ANNOTATIONS_BY_FORMAT)
            raise complete_fault(
                "format 'folder' has no annotations. Remove this key, or set format to one of: "
                f"{accepted}."
            )
        return value


class AnnotatedSourceConfig(SourceConfig):
    """Images with annotations."""

    format: Literal["coco", "voc", "yolo"] = Field(
        description="coco: images and one JSON file; voc: images and a folder of XML files; yolo: "
        "images, label files and a data.yaml."
    )
    scene_gap: Annotated[Integer, Field(ge=0)] = Field(
        default=0,
        description="Images whose file-name numbers differ by at most this are frames of one "
        "scene: hidden together (labeled), drawn together for intervals (validation); 0 = every "
        "image by itself.",
    )


class LabeledSourceConfig(AnnotatedSourceConfig):
    """Annotated images to learn from, of which a part may be hidden."""

    fraction: Annotated[Number, Field(gt=0, le=1)] = Field(
        default=1.0, description="Share of the images whose labels are used, 0 < fraction <= 1."
    )
    seed: Annotated[Integer, Field(ge=0)] = Field(
        default=0, description="Seed that chooses the fraction."
    )


LABELED_REST: Literal["labeled-rest"] = "labeled-rest"


def _kind_of_unlabeled(value: Any) -> str | None:
    if isinstance(value, dict | SourceConfig):
        return "source"
    return "rest" if value == LABELED_REST else None


UnlabeledEntry = Annotated[
    Annotated[SourceConfig, Tag("source")] | Annotated[Literal["labeled-rest"], Tag("rest")],
    Discriminator(
        _kind_of_unlabeled,
        custom_error_type="unlabeled",
        custom_error_message="a mapping with format and images, or labeled-rest",
    ),
]


class DataConfig(Section):
    """The images of a run."""

    image_size: Annotated[Integer, Field(ge=32, le=4096)] = Field(
        description="Longer side in pixels to which images are scaled, 32..4096."
    )
    workers: Annotated[Integer, Field(ge=0)] = Field(
        default=2, description="Processes that load images; 0 = in the main process."
    )
    cache: Literal["none", "memory"] = Field(
        default="none",
        description="memory: each training image is decoded once in a run and kept, no larger than "
        "the views of its stages need it; the memory is told first, and refused if it is not free.",
    )
    labeled: Annotated[LabeledSourceConfig | None, NonePossible] = Field(
        default=None, description="Annotated images to learn from."
    )
    unlabeled: tuple[UnlabeledEntry, ...] = Field(
        default=(),
        description="Images without labels: sources, or labeled-rest (the labeled images whose "
        "labels `fraction` hides).",
    )
    validation: Annotated[AnnotatedSourceConfig | None, NonePossible] = Field(
        default=None, description="Annotated images on which every model is measured."
    )


class TeacherConfig(Section):
    """What any teacher has, whatever computes its boxes: how it stands to the student."""

    class_map: dict[str, str] = Field(
        default={},
        description="Teacher's class -> student's class, or drop, where neither equal names nor "
        "the aliases of COCO, VOC and Open Images bring them together; goes before both.",
    )
    unknown_classes: tuple[str, ...] = Field(
        default=(),
        description="Student's classes that the teacher does not have: where it labels, these are "
        "left out of the losses instead of being taught as background. Of several teachers only "
        "classes that none of them has need to be listed.",
    )
    trust: Annotated[Number, Field(gt=0)] = Field(
        default=1.0,
        description="Say of this teacher beside the others' where several label, > 0.",
    )


class StudentConfig(BaseModel):
    """The detector that learns; all further keys are options of its family."""

    model_config = ConfigDict(extra="allow", frozen=True, validate_default=True)

    detector: Annotated[str, NotEmpty] = Field(
        description="Name of the detector family, such as retinanet."
    )
    pretrained: Pretrained = Field(
        default=True, description="Backbone weights: true, false, or a file of weights."
    )

    @property
    def options(self) -> dict[str, Any]:
        """Options of the family as the recipe has them: texts, lists and mappings."""
        return dict(self.model_extra or {})

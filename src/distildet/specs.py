"""What is known of a detector without its weights: classes, feature levels, parts it can return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from distildet.classes import ClassList
from distildet.structures import FEATURES_BACKBONE, FEATURES_HEAD, FEATURES_NECK

HeadKind = Literal["dense", "query", "region", "none"]


@dataclass(frozen=True, kw_only=True)
class InputFrame:
    """A rectangle that whole images are scaled to.

    Args:
        height: In pixels.
        width: In pixels.
        is_filled: Whether images are stretched to fill it, rather than fitted into it.
    """

    height: int
    width: int
    is_filled: bool


ViewSize: TypeAlias = int | InputFrame | Literal["original"]
"""How whole images are scaled: to a longer side, to a rectangle, or not at all."""

ObjectSize = Literal["root of area", "longer side"]


@dataclass(frozen=True, kw_only=True)
class FeatureLevel:
    """One feature map that a detector can return.

    Args:
        name: Such as "C4", "P3", "cls.P3".
        channels: Number of channels.
        stride: Nominal batch pixels per cell; geometry uses padded size / map size.
        object_side: Size in batch pixels of the objects that the detector looks for on this level,
            see `DetectorSpec.object_size`; None where it looks for none itself.
    """

    name: str
    channels: int
    stride: int
    object_side: float | None = None


@dataclass(frozen=True, kw_only=True)
class DetectorSpec:
    """Static facts of a detector.

    Args:
        family: Registered name, such as "retinanet".
        classes: Names of its labels.
        levels: All feature maps it can return, backbone first.
        head: Kind of its predictions before post-processing; "none" where it returns no such.
        parts: What forward can return, words of `distildet.structures.PARTS`.
        image_size: Longer side in pixels at which it was or is to be trained.
        mean: RGB mean that it subtracts from pixels in 0..1.
        std: RGB standard deviation that it divides by.
        licence: Licence of the code that computes it.
        object_size: What of a box decides on its level: the root of its area, or its longer side.
        options: Constructor options that build it again, without weights; JSON values.
        frame: How it wants whole images scaled where `image_size` does not say it.
    """

    family: str
    classes: ClassList
    levels: tuple[FeatureLevel, ...]
    head: HeadKind
    parts: frozenset[str]
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str
    object_size: ObjectSize = "root of area"
    options: Mapping[str, Any] = field(default_factory=dict)
    frame: InputFrame | Literal["original"] | None = None

    @property
    def view_size(self) -> ViewSize:
        """How whole images are scaled for it."""
        return self.image_size if self.frame is None else self.frame

    def levels_of(self, part: str) -> dict[str, FeatureLevel]:
        """Return the feature maps of a part by name, in the order of `levels`.

        Args:
            part: One of the words of features, such as "features.neck".
        """
        return {level.name: level for level in self.levels if part_of_level(level.name) == part}


def part_of_level(name: str) -> str:
    """Return the part that a feature map belongs to: "C4" backbone, "P3" neck, "cls.P3" head."""
    if "." in name:
        return FEATURES_HEAD
    return FEATURES_BACKBONE if name.startswith("C") else FEATURES_NECK

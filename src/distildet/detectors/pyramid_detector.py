"""What all families share: a backbone, a feature pyramid neck, and the options that build them."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from distildet.classes import ClassList
from distildet.detectors.backbones import PYRAMID_STRIDES, build_backbone
from distildet.detectors.base import DETECTORS, Detector
from distildet.detectors.pyramid import PyramidNeck
from distildet.errors import ConfigError
from distildet.specs import DetectorSpec, FeatureLevel, HeadKind, ObjectSize
from distildet.structures import FEATURES_HEAD

# What a bundle and a recipe state outside of the options.
_NOT_STORED = frozenset({"classes", "pretrained", "image_size"})


class PyramidDetector(Detector):
    """A detector whose head works on a feature pyramid.

    Args:
        family: Registered name.
        classes: What it detects.
        options: As `stored_options` returns them; those of backbone and neck are read here.
        pretrained: Backbone weights: true (the library's download), a file, or false.
        image_size: Longer side in pixels of the images it sees.
        head: Kind of its predictions.
        parts: What forward can return.
        object_side: Size of the objects that are looked for on a level of neck and head, in its
            strides.
        object_size: What of a box that is.
        num_object_levels: Levels, finest first, on which objects are looked for; None: all.

    Raises:
        ConfigError: An option has no meaning; the message names it.
        WeightsError: The backbone's weights cannot be had.
    """

    def __init__(
        self,
        *,
        family: str,
        classes: ClassList,
        options: Mapping[str, Any],
        pretrained: bool | Path,
        image_size: int,
        head: HeadKind,
        parts: Iterable[str],
        object_side: float,
        object_size: ObjectSize = "root of area",
        num_object_levels: int | None = None,
    ) -> None:
        offered = frozenset(parts)
        levels = options["backbone_levels"]
        body = build_backbone(options["backbone"], levels=levels, pretrained=pretrained)
        neck = PyramidNeck(
            levels,
            body.channels,
            options["neck_channels"],
            options["extra_levels"],
            options["extra_levels_from"],
            norm=options["neck_norm"],
        )
        super().__init__(
            DetectorSpec(
                family=family,
                classes=classes,
                levels=_feature_levels(
                    body.levels,
                    body.channels,
                    neck,
                    options["neck_channels"],
                    has_towers=FEATURES_HEAD in offered,
                    object_side=object_side,
                    num_object_levels=num_object_levels,
                ),
                head=head,
                parts=offered,
                image_size=image_size,
                mean=body.mean,
                std=body.std,
                licence="BSD-3-Clause AND Apache-2.0",
                object_size=object_size,
                options=options,
            )
        )
        self.backbone = body
        self.neck = neck

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the backbone."""
        return list(self.backbone.parameters())


def stored_options(family: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a family's constructor as a bundle stores them.

    Args:
        family: Registered name.
        given: The constructor's arguments by name; others are passed over.

    Raises:
        ConfigError: A value is not of the type that the constructor states.
    """
    for name, parameter in inspect.signature(DETECTORS.get(family)).parameters.items():
        value = tuple(given[name]) if isinstance(given[name], list) else given[name]
        if name != "classes":
            _check_type(family, name, value, parameter.annotation)
    return {
        name: list(given[name]) if isinstance(given[name], tuple) else given[name]
        for name in DETECTORS.options(family)
        if name not in _NOT_STORED
    }


def _check_type(family: str, name: str, value: object, annotation: Any) -> None:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        accepted = " or ".join(dict.fromkeys(fault["msg"] for fault in error.errors()))
        raise ConfigError(f"{family} option {name} is {value!r}. {accepted}.") from error


def check_options(
    family: str,
    options: Mapping[str, Any],
    *,
    at_least: Mapping[str, int],
    shares: Sequence[str] = (),
    positive: Sequence[str] = (),
) -> None:
    """Refuse options that have no meaning.

    Args:
        family: As it reads in messages.
        options: As `stored_options` returns them.
        at_least: Option name -> least value.
        shares: Options that lie in 0..1.
        positive: Options that are a number above 0, or a list of at least one of these.

    Raises:
        ConfigError: An option is out of range; the message names it.
    """

    def refuse(name: str, accepted: str) -> ConfigError:
        return ConfigError(f"{family} option {name} is {options[name]}. Accepted: {accepted}.")

    for name, least in at_least.items():
        if options[name] < least:
            raise refuse(name, f"{least} or more")
    for name in shares:
        if not 0 <= options[name] <= 1:
            raise refuse(name, "0 to 1")
    for name in positive:
        value = options[name]
        numbers = value if isinstance(value, list) else [value]
        if not numbers or min(numbers) <= 0:
            raise refuse(name, "numbers above 0, at least one")


def pyramid_anchors(
    strides: Sequence[int], *, scale: float, octaves: int, ratios: Sequence[float]
) -> AnchorGenerator:
    """Return anchors whose size grows with the stride of their level.

    Args:
        strides: Of the levels, finest first.
        scale: Side of the smallest anchor of a level, in strides.
        octaves: Sizes per level within one octave.
        ratios: Height / width.

    Raises:
        ConfigError: The smallest anchors have less than one pixel.
    """
    if int(scale * strides[0]) < 1:
        raise ConfigError(
            f"anchor_scale is {scale}, which makes anchors of no size at stride {strides[0]}. "
            f"Accepted: {1 / strides[0]} or more."
        )
    # Sizes are whole pixels, as in torchvision's default anchors.
    sizes = tuple(
        tuple(int(scale * stride * 2 ** (octave / octaves)) for octave in range(octaves))
        for stride in strides
    )
    return AnchorGenerator(sizes, (tuple(ratios),) * len(sizes))  # type: ignore[no-untyped-call] # torchvision has no types


def wanted_features(
    wanted: frozenset[str], maps_by_part: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the feature maps of the wanted parts, level name -> [b c h w] float32.

    Args:
        wanted: Words of `distildet.structures.PARTS`.
        maps_by_part: Part -> its maps.
    """
    return {
        name: feature.float()
        for part, maps in maps_by_part.items()
        if part in wanted
        for name, feature in maps.items()
    }


def _feature_levels(
    names: Sequence[str],
    channels: Sequence[int],
    neck: PyramidNeck,
    neck_channels: int,
    *,
    has_towers: bool,
    object_side: float,
    num_object_levels: int | None,
) -> tuple[FeatureLevel, ...]:
    levels = [
        FeatureLevel(name=name, channels=count, stride=PYRAMID_STRIDES[name])
        for name, count in zip(names, channels, strict=True)
    ]
    for prefix in ("", "cls.", "box.") if has_towers else ("",):
        levels += [
            FeatureLevel(
                name=f"{prefix}{name}",
                channels=neck_channels,
                stride=stride,
                object_side=object_side * stride
                if num_object_levels is None or place < num_object_levels
                else None,
            )
            for place, (name, stride) in enumerate(zip(neck.levels, neck.strides, strict=True))
        ]
    return tuple(levels)

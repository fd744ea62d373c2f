"""Tells from names and shapes of tensors which stock torchvision detector they belong to."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import models

from distildet.detectors.backbones import PYRAMID_STRIDES
from distildet.errors import WeightsError

BODY = "backbone.body."
ACCEPTED = (
    "Accepted: state dicts of torchvision's RetinaNet (v1, v2), FCOS and Faster R-CNN (v1, v2), "
    "each on a ResNet with a feature pyramid."
)
# One tensor that only this family has; the order matters, since FCOS has those of RetinaNet too.
_FAMILIES = {
    "head.regression_head.bbox_ctrness.weight": "fcos",
    "head.regression_head.bbox_reg.weight": "retinanet",
    "roi_heads.box_predictor.cls_score.weight": "faster_rcnn",
}
_OTHER_DETECTORS = {
    "roi_heads.mask_predictor.": "Mask R-CNN",
    "roi_heads.keypoint_predictor.": "Keypoint R-CNN",
    "head.classification_head.module_list.": "SSD",
    "backbone.body.0.": "a detector on MobileNet",
}
_RESNETS = (
    "resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
# Names that torchvision's own loading code still takes: those before 0.13, in which the published
# files of 2019 and 2020 are written.
_OLD_NECK = re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)")
_OLD_PROPOSALS = re.compile(r"(rpn\.head\.conv)\.(weight|bias)")
_OLD_TOWER = re.compile(r"(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)")
# torchvision's anchors: one size, or octave, for each of five levels, from 32 pixels on.
_LEVELS = 5
_FINEST_ANCHOR = 32
_RETINANET_ANCHORS = 9
_PROPOSAL_ANCHORS = 3


@dataclass(frozen=True, kw_only=True)
class StockArchitecture:
    """A stock detector.

    Args:
        family: Our family that computes the same.
        options: Of its constructor, all but those about classes.
        num_columns: Columns of the class layer, with background where there is one.
        tensors: By the names of torchvision's current version.
    """

    family: str
    options: Mapping[str, Any]
    num_columns: int
    tensors: Mapping[str, Tensor]


class _Tensors:
    """The tensors of a file, with messages for what is not among them."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        self.path = path
        self.tensors = tensors

    def size(self, name: str, axis: int) -> int:
        """Return the size of a tensor along an axis."""
        if name not in self.tensors:
            raise WeightsError(f"{self.path}: the tensor {name!r} is missing. Is the file whole?")
        shape = self.tensors[name].shape
        if axis >= len(shape):
            raise WeightsError(f"{self.path}: the tensor {name!r} has the shape {list(shape)}.")
        return shape[axis]

    def count(self, pattern: str) -> int:
        """Return how many different numbers stand in names that match a pattern."""
        found = (re.match(pattern, name) for name in self.tensors)
        return len({match[1] for match in found if match})

    def has(self, pattern: str) -> bool:
        """Return whether a name matches a pattern."""
        return any(re.match(pattern, name) for name in self.tensors)

    def refused(self, reason: str) -> WeightsError:
        """Return the error for a detector that we cannot compute."""
        return WeightsError(f"{self.path}: {reason}. {ACCEPTED}")


def recognise(path: Path, tensors: Mapping[str, Tensor]) -> StockArchitecture:
    """Tell the detector that a state dict belongs to.

    Args:
        path: Of the file, for messages.
        tensors: By the names of any version of torchvision.

    Raises:
        WeightsError: It is none that is accepted; the message says what it is, where known.
    """
    _refuse_empty(path, tensors)
    family = _family(_Tensors(path, tensors))
    found = _Tensors(path, _with_current_names(family, tensors))
    read_head = _HEAD_READERS[family]
    options = _pyramid_options(found)
    num_columns = read_head(found, options)
    return StockArchitecture(
        family=family, options=options, num_columns=num_columns, tensors=found.tensors
    )


def _refuse_empty(path: Path, tensors: Mapping[str, Tensor]) -> None:
    empty = [name for name, tensor in tensors.items() if tensor.numel() == 0]
    if empty:
        raise WeightsError(
            f"{path}: the tensor {empty[0]!r} has the shape {list(tensors[empty[0]].shape)}, so "
            "nothing is in it. Is the file whole?"
        )


def _family(found: _Tensors) -> str:
    for prefix, kind in _OTHER_DETECTORS.items():
        if found.has(re.escape(prefix)):
            raise found.refused(f"these are weights of {kind}, which is not supported")
    for name, family in _FAMILIES.items():
        if name in found.tensors:
            return family
    shown = ", ".join(map(repr, list(found.tensors)[:3]))
    raise found.refused(f"these are no weights of a known detector (tensors such as {shown})")


def _with_current_names(family: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in tensors.items():
        current = _OLD_NECK.sub(r"\1.0.\2", name) if _OLD_NECK.fullmatch(name) else name
        if _OLD_PROPOSALS.fullmatch(name):
            current = _OLD_PROPOSALS.sub(r"\1.0.0.\2", name)
        # FCOS still counts convolutions and activations one by one.
        tower = _OLD_TOWER.fullmatch(name) if family == "retinanet" else None
        if tower:
            current = f"{tower[1]}.{int(tower[2]) // 2}.0.{tower[3]}"
        renamed[current] = tensor
    return renamed


def _pyramid_options(found: _Tensors) -> dict[str, Any]:
    neck_channels = found.size("backbone.fpn.inner_blocks.0.0.weight", 0)
    num_levels = found.count(r"backbone\.fpn\.inner_blocks\.(\d+)\.")
    num_extra = found.count(r"backbone\.fpn\.extra_blocks\.p(\d+)\.")
    # torchvision calls the first level after C5 "p6"; layer1 of a ResNet is C2.
    last = 5 if num_extra else 1 + found.count(r"backbone\.body\.layer(\d)\.")
    # Without weights, torchvision adds one level that takes every second cell.
    if num_levels + (num_extra or 1) != _LEVELS or num_levels >= last:
        raise found.refused(
            f"its pyramid has {num_levels} + {num_extra or 1} levels up to C{last}; torchvision's "
            "anchors are for five levels, and a file does not hold other anchors"
        )
    source = "subsampling"
    if num_extra:
        width = found.size("backbone.fpn.extra_blocks.p6.weight", 1)
        source = "neck" if width == neck_channels else "backbone"
    has_norm = found.has(r"backbone\.fpn\.inner_blocks\.\d+\.1\.running_var")
    return {
        "backbone": f"torchvision/{_resnet(found)}",
        "backbone_levels": tuple(f"C{last + 1 + i}" for i in range(-num_levels, 0)),
        "extra_levels": num_extra or 1,
        "extra_levels_from": source,
        "neck_channels": neck_channels,
        "neck_norm": "batch" if has_norm else "none",
    }


def _resnet(found: _Tensors) -> str:
    """Return the ResNet with which most tensors agree."""
    shapes = {
        (name.removeprefix(BODY), tuple(tensor.shape))
        for name, tensor in found.tensors.items()
        if name.startswith(BODY) and not name.endswith("num_batches_tracked")
    }
    agreements = {name: len(shapes & _resnet_shapes(name)) for name in _RESNETS}
    best = max(agreements, key=lambda name: agreements[name])
    if agreements[best] <= len(shapes) // 2:
        raise found.refused("its backbone is no ResNet of torchvision")
    return best


@cache
def _resnet_shapes(name: str) -> frozenset[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        model = models.get_model(name, weights=None)
    return frozenset((key, tuple(tensor.shape)) for key, tensor in model.state_dict().items())


def _anchor_scale(options: Mapping[str, Any]) -> float:
    stride = PYRAMID_STRIDES[options["backbone_levels"][0]]
    return _FINEST_ANCHOR / stride


def _read_retinanet(found: _Tensors, options: dict[str, Any]) -> int:
    """Add the options of the head; return the number of class columns."""
    columns = found.size("head.classification_head.cls_logits.weight", 0)
    codes = found.size("head.regression_head.bbox_reg.weight", 0)
    if codes != 4 * _RETINANET_ANCHORS or columns % _RETINANET_ANCHORS:
        raise found.refused(f"its head has {codes // 4} anchors at a location instead of 9")
    has_norm = found.has(r"head\.classification_head\.conv\.\d+\.1\.weight")
    options |= {
        "head_depth": found.count(r"head\.classification_head\.conv\.(\d+)\.0\."),
        "head_norm": "group" if has_norm else "none",
        "anchor_scale": _anchor_scale(options),
        # torchvision trains the second version, which has the norm, with this loss.
        "box_loss": "giou" if has_norm else "l1",
        "max_detections": 300,
    }
    return columns // _RETINANET_ANCHORS


def _read_fcos(found: _Tensors, options: dict[str, Any]) -> int:
    """Add the options of the head; return the number of class columns."""
    if options["backbone_levels"][0] != "C3":
        raise found.refused(f"its pyramid starts at {options['backbone_levels'][0]} instead of C3")
    towers = [
        found.tensors[name].dim()
        for name in found.tensors
        if re.fullmatch(r"head\.classification_head\.conv\.\d+\.weight", name)
    ]
    options |= {
        "head_depth": sum(dimensions == 4 for dimensions in towers),
        "head_norm": "group" if 1 in towers else "none",
        "max_detections": 100,
    }
    return found.size("head.classification_head.cls_logits.weight", 0)


def _read_faster_rcnn(found: _Tensors, options: dict[str, Any]) -> int:
    """Add the options of proposal network and head; return the class columns with background."""
    anchors = found.size("rpn.head.cls_logits.weight", 0)
    if anchors != _PROPOSAL_ANCHORS:
        raise found.refused(f"its proposal network has {anchors} anchors at a location, not 3")
    linear = [
        tensor
        for name, tensor in found.tensors.items()
        if re.fullmatch(r"roi_heads\.box_head\.(fc\d+|\d+)\.weight", name)
    ]
    if not linear or linear[0].dim() != 2:
        raise found.refused("its region head has no linear layers")
    options |= {
        "anchor_scale": _anchor_scale(options),
        "proposal_depth": found.count(r"rpn\.head\.conv\.(\d+)\.0\."),
        "region_size": math.isqrt(linear[0].shape[1] // options["neck_channels"]),
        "region_convs": found.count(r"roi_heads\.box_head\.(\d+)\.0\.weight"),
        "region_norm": (
            "batch" if found.has(r"roi_heads\.box_head\.\d+\.1\.running_var") else "none"
        ),
        "region_layers": len(linear),
        "region_channels": linear[0].shape[0],
        "max_detections": 100,
    }
    return found.size("roi_heads.box_predictor.cls_score.weight", 0)


_HEAD_READERS: dict[str, Callable[[_Tensors, dict[str, Any]], int]] = {
    "retinanet": _read_retinanet,
    "fcos": _read_fcos,
    "faster_rcnn": _read_faster_rcnn,
}

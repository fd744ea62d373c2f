"""Detectors from the state dicts of torchvision's stock detection models.

A file of such weights does not say everything. What cannot be told from names and shapes is
taken as in torchvision's builders: anchors, thresholds, preprocessing.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from distildet.classes import ClassList
from distildet.detectors.base import Detector
from distildet.detectors.faster_rcnn import FasterRCNN
from distildet.detectors.fcos import FCOS
from distildet.detectors.retinanet import RetinaNet
from distildet.detectors.stock_architecture import BODY, StockArchitecture, recognise
from distildet.detectors.stock_classes import class_columns, is_coco, unused_columns
from distildet.detectors.weights_file import StoredWeights, read_weights
from distildet.errors import ConfigError, WeightsError

# torchvision scales the shorter side to 800: the longer one of a 4:3 photograph is then 1067.
STOCK_IMAGE_SIZE = 1067
_OUR_EPS = 1e-5
_SHOWN = 3
_CLASS_LAYER = "head.classification_head.cls_logits."
_OUR_NAMES = (
    (re.compile(r"^backbone\.fpn\."), "neck.fpn."),
    (re.compile(r"^rpn\.head\."), "proposal_network.head."),
    (re.compile(r"^roi_heads\.box_predictor\."), "region_head.predictor."),
    # Ours has the flattening before, and an activation between, as layers of their own.
    (re.compile(r"^roi_heads\.box_head\.fc6\."), "region_head.layers.1."),
    (re.compile(r"^roi_heads\.box_head\.fc7\."), "region_head.layers.3."),
    (re.compile(r"^roi_heads\.box_head\."), "region_head.layers."),
)


def load_stock_detector(
    path: Path,
    *,
    classes: ClassList | None = None,
    image_size: int | None = None,
    batch_norm_eps: float | None = None,
) -> Detector:
    """Build the detector that computes what a stock torchvision model with these weights does.

    Scores are kept from the same floor in all families (torchvision's FCOS starts at 0.2).

    Args:
        path: File with a state dict, or with a checkpoint that has one under "model".
        classes: Names of the class columns; None for the 91 columns of torchvision's COCO files.
            RetinaNet and FCOS: as many names as columns, or one fewer where column 0 is unused.
            Faster R-CNN: one fewer, since column 0 is the background.
        image_size: Longer side in pixels of the images it sees; None for 1067.
        batch_norm_eps: What was added to variances of the backbone; None for what torchvision's
            builders do. A file cannot tell this. See `_usual_eps`.

    Raises:
        ConfigError: image_size or batch_norm_eps has no meaning.
        WeightsError: The file has code in it, or is not of an accepted model; the message says
            which are.
    """
    size = STOCK_IMAGE_SIZE if image_size is None else image_size
    _check_numbers(path, size, batch_norm_eps)
    stored = read_weights(path)
    stock = recognise(path, stored.tensors)
    eps = _usual_eps(stock, stored) if batch_norm_eps is None else batch_norm_eps
    columns = class_columns(
        path, stock.num_columns, classes, has_background=stock.family == "faster_rcnn"
    )
    detector = _build(stock, columns, size)
    tensors = _with_our_eps(stock.tensors, eps)
    if stock.family != "faster_rcnn":
        tensors = _of_columns(path, tensors, stock.num_columns, list(columns))
    _load(path, detector, {_our_name(name): tensor for name, tensor in tensors.items()})
    return detector.eval()


def _check_numbers(path: Path, image_size: int, batch_norm_eps: float | None) -> None:
    if image_size < 1:
        raise ConfigError(f"{path}: image_size is {image_size}. Accepted: 1 or more.")
    if batch_norm_eps is not None and not (math.isfinite(batch_norm_eps) and batch_norm_eps >= 0):
        raise ConfigError(f"{path}: batch_norm_eps is {batch_norm_eps}. Accepted: 0 or more.")


def _usual_eps(stock: StockArchitecture, stored: StoredWeights) -> float:
    """Return what torchvision's builder adds to the variances of the backbone.

    The published files of RetinaNet v1 and Faster R-CNN v1 were trained when frozen BatchNorm
    added nothing, so the builders overwrite 1e-5 with 0 after loading these, and only these. They
    are bare state dicts for 91 categories without counters of batches. Models trained by a user
    are alike but for their number of columns: from ImageNet weights they have 1e-5, from COCO
    weights 0, and the file is the same.
    """
    has_counters = any(
        name.startswith(BODY) and name.endswith("num_batches_tracked") for name in stock.tensors
    )
    is_published = is_coco(stock.num_columns) and not has_counters and not stored.is_checkpoint
    return 0.0 if is_published and stock.family in {"retinanet", "faster_rcnn"} else _OUR_EPS


def _build(stock: StockArchitecture, columns: Mapping[int, str], image_size: int) -> Detector:
    classes = ClassList(tuple(columns.values()))
    if stock.family == "faster_rcnn":
        unused = unused_columns(stock.num_columns, list(columns))
        return FasterRCNN(classes, image_size=image_size, unused_columns=unused, **stock.options)
    family = RetinaNet if stock.family == "retinanet" else FCOS
    return family(classes, image_size=image_size, **stock.options)


def _with_our_eps(tensors: Mapping[str, Tensor], eps: float) -> dict[str, Tensor]:
    """Scale the backbone's BatchNorm so that it computes the same with our eps."""
    result = dict(tensors)
    if eps == _OUR_EPS:
        return result
    for name, variance in tensors.items():
        scale = name.removesuffix("running_var") + "weight"
        if name.startswith(BODY) and name.endswith(".running_var") and scale in tensors:
            if tensors[scale].shape != variance.shape:
                continue  # told with all other shapes that do not fit
            exact = variance.double()
            # In float64: both terms may differ by many orders of magnitude.
            factor = ((exact + _OUR_EPS) / (exact + eps)).sqrt()
            result[scale] = (tensors[scale].double() * factor).float()
    return result


def _of_columns(
    path: Path, tensors: Mapping[str, Tensor], num_columns: int, columns: Sequence[int]
) -> dict[str, Tensor]:
    """Keep the chosen columns of the class layer, of every anchor.

    Raises:
        WeightsError: Weight and bias of the layer are of different lengths.
    """
    result = dict(tensors)
    length = len(tensors[f"{_CLASS_LAYER}weight"])
    for name in ("weight", "bias"):
        key = f"{_CLASS_LAYER}{name}"
        if key in tensors:
            layer = tensors[key]
            if layer.shape[:1] != (length,):
                raise WeightsError(
                    f"{path}: the tensor {key!r} has the shape {list(layer.shape)}, but its layer "
                    f"has {length} outputs. Is the file whole?"
                )
            by_anchor = layer.reshape(-1, num_columns, *layer.shape[1:])  # [a k ...]
            result[key] = by_anchor[:, list(columns)].flatten(0, 1)
    return result


def _our_name(name: str) -> str:
    for pattern, ours in _OUR_NAMES:
        if pattern.match(name):
            return pattern.sub(ours, name)
    return name


def _load(path: Path, detector: Detector, tensors: dict[str, Tensor]) -> None:
    expected = detector.state_dict()
    # Frozen BatchNorm has no counters; nothing reads them in a network that is not trained.
    tensors |= {
        name: torch.zeros_like(counter)
        for name, counter in expected.items()
        if name.endswith("num_batches_tracked") and name not in tensors
    }
    faults = {
        "missing": [name for name in expected if name not in tensors],
        "unknown": [name for name in tensors if name not in expected],
        "of another shape": [
            f"{name} {list(tensors[name].shape)} instead of {list(expected[name].shape)}"
            for name in expected
            if name in tensors and tensors[name].shape != expected[name].shape
        ],
        "not finite": [name for name in tensors if not tensors[name].isfinite().all()],
    }
    found = [
        f"{len(names)} are {kind} (such as {', '.join(names[:_SHOWN])})"
        for kind, names in faults.items()
        if names
    ]
    if found:
        raise WeightsError(
            f"{path}: the tensors do not make a whole {detector.spec.family} on "
            f"{detector.spec.options['backbone']}: {'; '.join(found)}. Give the state dict of a "
            "stock torchvision model, all of it."
        )
    detector.load_state_dict(tensors)

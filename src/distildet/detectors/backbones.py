"""Backbones of timm and torchvision as feature pyramids C2..C5."""

import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torchvision import models

from distildet.detectors.probing import check_maps, not_a_pyramid, without_unused
from distildet.detectors.timm_features import not_loaded, timm_features, timm_features_of_file
from distildet.detectors.weights_file import read_weights, refuse_not_finite
from distildet.errors import ConfigError, WeightsError, nearest_names

Colour = tuple[float, float, float]
PYRAMID_STRIDES = {"C2": 4, "C3": 8, "C4": 16, "C5": 32}
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# Torchvision's weights of these two were trained on pixels of -1..1.
_TRAINED_ON_HALVES = {"googlenet", "inception_v3"}
# TensorFlow's EfficientNet-Lite was trained on (pixel - 127) / 128; timm's configuration rounds.
_LITE = "tf_efficientnet_lite"
_LITE_MEAN = (127 / 255, 127 / 255, 127 / 255)
_LITE_STD = (128 / 255, 128 / 255, 128 / 255)
# Children of torchvision classifiers that come after the feature pyramid.
_CLASSIFIER_CHILDREN = {
    "avgpool", "classifier", "fc", "dropout", "flatten", "head", "norm", "permute", "aux1", "aux2",
    "AuxLogits", "heads",
}  # fmt: skip


class Backbone(nn.Module):
    """Feature maps of chosen strides.

    Args:
        body: Network whose forward returns the maps of all chosen levels, finest first.
        levels: Names of the maps, such as ("C3", "C4").
        channels: Channels of the maps, in the same order.
        mean: RGB mean of the images it was trained on.
        std: RGB standard deviation of these.
    """

    def __init__(
        self,
        body: nn.Module,
        levels: Sequence[str],
        channels: Sequence[int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.body = body
        self.levels = tuple(levels)
        self.channels = tuple(channels)
        self.mean = mean
        self.std = std

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return level name -> [b c h w] for normalised pixels [b 3 h w]."""
        return dict(zip(self.levels, self.body(pixels), strict=True))


class _Chain(nn.Module):
    """Blocks in a row; returns the outputs of the chosen ones. Keeps the blocks' own names."""

    def __init__(self, blocks: Sequence[tuple[str, nn.Module]], chosen: Sequence[str]) -> None:
        super().__init__()
        for name, block in blocks:
            self.add_module(name, block)
        self.chosen = tuple(chosen)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for name, block in self.named_children():
            x = block(x)
            if name in self.chosen:
                maps.append(x)
        return maps


def build_backbone(
    name: str, *, levels: Sequence[str], pretrained: bool | Path = False
) -> Backbone:
    """Build a pyramid backbone.

    Args:
        name: A timm model, or "torchvision/NAME" for a torchvision classifier.
        levels: Wanted levels, finest first, of C2 (stride 4) to C5 (stride 32).
        pretrained: True for the library's ImageNet weights (downloaded by that library), a file
            of weights, or False for random ones.

    Raises:
        ConfigError: Unknown name or level, or the network is not a feature pyramid.
        WeightsError: The weights cannot be had or do not fit.
    """
    _check_levels(levels)
    if name.startswith("torchvision/"):
        bare_name = name.removeprefix("torchvision/")
        backbone = _torchvision_backbone(bare_name, levels, pretrained=pretrained)
    else:
        bare_name = name.removeprefix("timm/")
        backbone = _timm_backbone(bare_name, levels, pretrained=pretrained)
    return backbone.train()


def _check_levels(levels: Sequence[str]) -> None:
    for level in levels:
        if level not in PYRAMID_STRIDES:
            raise ConfigError(
                f"backbone_levels has {level!r}. {nearest_names(level, PYRAMID_STRIDES)}"
            )
    strides = [PYRAMID_STRIDES[level] for level in levels]
    if not strides or any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
        raise ConfigError(
            f"backbone_levels is {list(levels)}. Accepted: consecutive levels, finest first, "
            "such as [C3, C4, C5]."
        )


def _timm_backbone(name: str, levels: Sequence[str], *, pretrained: bool | Path) -> Backbone:
    if not timm.is_model(name):
        raise ConfigError(
            f"Unknown timm backbone {name!r}. {_near(name, timm.list_models())} "
            "For a torchvision network write torchvision/NAME."
        )
    try:
        # None comes only where unregistered names are allowed.
        config = cast(Any, timm.get_pretrained_cfg(name, allow_unregistered=False))
    except RuntimeError as error:  # the part after the dot, which names the weights
        tagged = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ConfigError(
            f"Unknown timm backbone {name!r}. {nearest_names(name, tagged)}"
        ) from error
    probe = timm_features(name, pretrained=False)
    strides, channels = probe.feature_info.reduction(), probe.feature_info.channels()
    if str(getattr(probe, "output_fmt", None)).endswith("NHWC"):
        raise not_a_pyramid(name, "its maps are channels-last (NHWC)")
    if len(set(strides)) < len(strides):
        raise not_a_pyramid(name, f"its maps all have strides {sorted(set(strides))}")
    indices = [_index_of_stride(name, level, strides) for level in levels]
    if isinstance(pretrained, Path):
        body = timm_features_of_file(name, pretrained, indices)
    else:
        body = timm_features(name, pretrained=pretrained, out_indices=indices)
    check_maps(
        name,
        body.eval(),
        strides=[strides[i] for i in indices],
        channels=[channels[i] for i in indices],
    )
    if indices[-1] < len(strides) - 1:
        body = without_unused(body)
    mean, std = cast(Colour, config.mean), cast(Colour, config.std)
    if name.startswith(_LITE):
        mean, std = _LITE_MEAN, _LITE_STD
    return Backbone(body, levels, [channels[i] for i in indices], mean, std)


def _index_of_stride(name: str, level: str, strides: Sequence[int]) -> int:
    if PYRAMID_STRIDES[level] not in strides:
        raise ConfigError(
            f"Backbone {name!r} has no level {level} (stride {PYRAMID_STRIDES[level]}). "
            f"Its strides: {', '.join(map(str, strides))}."
        )
    return list(strides).index(PYRAMID_STRIDES[level])


def _torchvision_backbone(name: str, levels: Sequence[str], *, pretrained: bool | Path) -> Backbone:
    names = models.list_models(module=models)
    if name not in names:
        raise ConfigError(f"Unknown torchvision backbone {name!r}. {_near(name, names)}")
    with warnings.catch_warnings():
        # Two old networks announce another initialisation.
        warnings.simplefilter("ignore", FutureWarning)
        model = models.get_model(name, weights=None)
    if isinstance(pretrained, Path):
        _load_into(model, name, pretrained)
    elif pretrained:
        try:
            model = models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:  # no network, or a damaged download
            raise not_loaded(name, error, pretrained=pretrained) from error
    blocks = _blocks_in_order(model)
    stages = _stages(name, blocks)
    indices = [_index_of_stride(name, level, list(stages)) for level in levels]
    ends = [list(stages.values())[i] for i in indices]
    kept = blocks[: ends[-1][0] + 1]
    body = _Chain(kept, [blocks[index][0] for index, _ in ends])
    channels = [count for _, count in ends]
    strides = [PYRAMID_STRIDES[level] for level in levels]
    check_maps(name, body.eval(), strides=strides, channels=channels)
    if name in _TRAINED_ON_HALVES:
        return Backbone(body, levels, channels, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Backbone(body, levels, channels, _IMAGENET_MEAN, _IMAGENET_STD)


def _blocks_in_order(model: nn.Module) -> list[tuple[str, nn.Module]]:
    blocks: list[tuple[str, nn.Module]] = []
    for name, child in model.named_children():
        if name in _CLASSIFIER_CHILDREN:
            continue
        if isinstance(child, nn.Sequential) and name in {"features", "layers", "trunk_output"}:
            blocks.extend(child.named_children())
        else:
            blocks.append((name, child))
    return blocks


@torch.no_grad()
def _stages(name: str, blocks: Sequence[tuple[str, nn.Module]]) -> dict[int, tuple[int, int]]:
    """Return stride -> (index of the last block of that stride, its channels)."""
    side = 128
    x = torch.zeros(1, 3, side, side)
    stages: dict[int, tuple[int, int]] = {}
    for index, (_, block) in enumerate(blocks):
        was_training = block.training
        try:
            x = block.eval()(x)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            raise not_a_pyramid(name, f"block {index} failed: {error}") from error
        finally:
            block.train(was_training)
        if x.dim() != 4 or x.shape[2] != x.shape[3]:
            raise not_a_pyramid(name, f"block {index} returns shape {list(x.shape)}")
        stride = round(side / x.shape[2])
        is_classifier_conv = index == len(blocks) - 1 and _is_pointwise(block)
        if not is_classifier_conv:
            stages[stride] = (index, x.shape[1])
    return stages


def _is_pointwise(block: nn.Module) -> bool:
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    return len(convolutions) == 1 and convolutions[0].kernel_size == (1, 1)


def _load_into(model: nn.Module, name: str, path: Path) -> None:
    """Load a file of the whole network, whatever classes its classifier was trained for."""
    state = {
        key: tensor
        for key, tensor in read_weights(path).tensors.items()
        # The counter of torch's AveragedModel, in the moving averages of reference scripts.
        if key != "n_averaged" and not _is_of_classifier(key)
    }
    refuse_not_finite(path, state)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except Exception as error:
        raise not_loaded(name, error, pretrained=path) from error
    missing = [key for key in missing if not _is_of_classifier(key)]
    if missing or unexpected:
        raise WeightsError(
            f"{path}: these weights do not belong to torchvision's {name}: {len(missing)} tensors "
            f"are missing (such as {missing[:3]}) and {len(unexpected)} unknown "
            f"(such as {list(unexpected)[:3]}). Give the state dict of a whole {name}."
        )


def _is_of_classifier(key: str) -> bool:
    return key.split(".")[0] in _CLASSIFIER_CHILDREN


def _near(name: str, names: Sequence[str]) -> str:
    return nearest_names(name, names).rpartition(".")[2].strip() or "Nothing is similar."

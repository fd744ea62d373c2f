"""Oracle: EfficientNet-Lite0 written out with plain functions, under the packages' names."""

import re
from pathlib import Path

import pytest
import timm
import torch
from torch.nn import functional as F

from distildet.detectors.backbones import build_backbone
from distildet.detectors.weight_names import in_timm_names
from distildet.errors import WeightsError

FILE = Path("lite.pth")
# kernel, stride of the first block, blocks
STAGES = [(3, 1, 1), (3, 2, 2), (5, 2, 2), (3, 2, 3), (5, 1, 3), (5, 2, 4), (3, 1, 1)]
SEPARABLE = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
INVERTED = {
    "conv_pw": "_expand_conv",
    "bn1": "_bn0",
    "conv_dw": "_depthwise_conv",
    "bn2": "_bn1",
    "conv_pwl": "_project_conv",
    "bn3": "_bn2",
}
TOP = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}


def in_names_of_the_packages(state):
    blocks = []
    renamed = {}
    for name, tensor in state.items():
        block = re.fullmatch(r"blocks\.(\d)\.(\d)\.(\w+)\.(\w+)", name)
        if block:
            stage, index, layer, kind = block.groups()
            if (stage, index) not in blocks:
                blocks.append((stage, index))
            layer = (SEPARABLE if stage == "0" else INVERTED)[layer]
            renamed[f"_blocks.{len(blocks) - 1}.{layer}.{kind}"] = tensor
        else:
            layer, kind = name.split(".")
            renamed[f"{TOP.get(layer, '_fc')}.{kind}"] = tensor
    return renamed


def lite_state(number=0):
    torch.manual_seed(0)
    state = timm.create_model(f"tf_efficientnet_lite{number}").state_dict()
    for name, tensor in state.items():
        if tensor.dim() == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_(0.5, 0.3)
    return in_names_of_the_packages(state)


def convolve(x, weight, stride):
    """Convolve as TensorFlow does: where the padding is odd, more of it right and below."""
    padding = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + weight.shape[-1] - size, 0)
        padding += [total // 2, total - total // 2]
    groups = x.shape[1] // weight.shape[1]
    return F.conv2d(F.pad(x, padding), weight, stride=stride, groups=groups)


def maps_of_lite0(state, x):
    def layer(x, conv, norm, stride=1):
        values = [state[f"{norm}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(convolve(x, state[f"{conv}.weight"], stride), *values, eps=1e-3)

    x = F.relu6(layer(x, "_conv_stem", "_bn0", 2))
    maps, number = {}, 0
    for _, stride, count in STAGES:
        for i in range(count):
            block, entry = f"_blocks.{number}", x
            if number > 0:
                x = F.relu6(layer(x, f"{block}._expand_conv", f"{block}._bn0"))
            step = stride if i == 0 else 1
            x = F.relu6(layer(x, f"{block}._depthwise_conv", f"{block}._bn1", step))
            x = layer(x, f"{block}._project_conv", f"{block}._bn2")
            x = x + entry if x.shape == entry.shape else x
            number += 1
        maps[x.shape[2]] = x
    return maps


def test_the_packages_weights_give_the_maps_of_efficientnet_lite(tmp_path):
    state = lite_state()
    torch.save(state, tmp_path / "lite0.pth")
    pixels = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))

    backbone = build_backbone(
        "tf_efficientnet_lite0",
        levels=("C2", "C3", "C4", "C5"),
        pretrained=tmp_path / "lite0.pth",
    ).eval()

    expected = maps_of_lite0(state, pixels)
    for found, height in zip(backbone(pixels).values(), (16, 8, 4, 2), strict=True):
        torch.testing.assert_close(found, expected[height], rtol=1e-4, atol=1e-4)


def test_names_of_timm_are_kept():
    state = timm.create_model("test_efficientnet").state_dict()

    assert in_timm_names("test_efficientnet", FILE, state) == dict(state)


def test_weights_of_another_efficientnet_keep_their_names():
    state = {"_conv_stem.weight": torch.zeros(1), "_blocks.0._se_reduce.bias": torch.zeros(1)}

    assert in_timm_names("tf_efficientnet_b0", FILE, state) == state


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_networks_that_would_compute_something_else_are_refused(name):
    with pytest.raises(WeightsError, match=rf"lite.pth: .*'{name}' .*Accepted: tf_efficientnet"):
        in_timm_names(name, FILE, lite_state())


@pytest.mark.parametrize(
    ("number", "change", "message"),
    [
        (1, lambda state: None, "386 tensors instead of 296, .* of another shape"),
        (0, lambda state: state.popitem(), r"295 tensors instead of 296, 0 of another shape\."),
        (
            0,
            lambda state: state.update({"_fc.bias": torch.zeros(10)}),
            r".*1 of another shape \(such as _fc.bias \[10\] at the place of classifier.bias",
        ),
    ],
)
def test_weights_of_another_size_are_refused_with_what_differs(number, change, message):
    state = lite_state(number)
    change(state)

    with pytest.raises(WeightsError, match=rf"lite.pth: .*not those of .*lite0': {message}"):
        in_timm_names("tf_efficientnet_lite0", FILE, state)

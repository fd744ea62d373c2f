import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from distildet.detectors.backbones import build_backbone
from distildet.errors import ConfigError, WeightsError

LEVELS = ("C3", "C4", "C5")


class WritesAFile:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.fixture
def pixels():
    return torch.rand(1, 3, 96, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name",
    ["test_efficientnet", "test_resnet", "test_convnext", "mobilenetv3_small_050", "lcnet_035"],
)
@pytest.mark.parametrize("levels", [LEVELS, ("C3", "C4"), ("C2", "C3"), ("C4",)])
def test_maps_have_the_stated_strides_and_channels_and_every_weight_a_gradient(
    name, levels, pixels
):
    backbone = build_backbone(name, levels=levels)

    maps = backbone(torch.cat([pixels, pixels.flip(3)]))
    sum(level.sum() for level in maps.values()).backward()

    assert tuple(maps) == levels
    assert [tuple(level.shape) for level in maps.values()] == [
        (2, channels, 96 // stride, 64 // stride)
        for channels, stride in zip(
            backbone.channels, [2 ** int(level[1]) for level in levels], strict=True
        )
    ]
    assert [n for n, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x0_5", "mnasnet0_5", "googlenet"])
def test_torchvision_maps_have_the_stated_strides_and_channels(name, pixels):
    backbone = build_backbone(f"torchvision/{name}", levels=LEVELS).eval()

    maps = backbone(pixels)

    assert [tuple(level.shape) for level in maps.values()] == [
        (1, channels, 96 // stride, 64 // stride)
        for channels, stride in zip(backbone.channels, (8, 16, 32), strict=True)
    ]


def test_torchvision_maps_are_those_of_its_own_feature_extractor(pixels, tmp_path):
    torch.manual_seed(0)
    stock = models.resnet18(weights=None).eval()
    torch.save(stock.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(
        "torchvision/resnet18", levels=LEVELS, pretrained=tmp_path / "weights.pth"
    ).eval()

    expected = create_feature_extractor(stock, {"layer2": "C3", "layer3": "C4", "layer4": "C5"})

    torch.testing.assert_close(backbone(pixels), dict(expected(pixels)), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("levels", [LEVELS, ("C3", "C4")])
def test_timm_maps_are_those_of_the_whole_network(pixels, tmp_path, suffix, levels):
    torch.manual_seed(0)
    stock = timm.create_model("test_efficientnet").eval()
    file = tmp_path / f"weights.{suffix}"
    {"safetensors": save_file, "pth": torch.save}[suffix](stock.state_dict(), file)
    expected = stock.forward_intermediates(pixels, intermediates_only=True)[2 : 2 + len(levels)]

    backbone = build_backbone("timm/test_efficientnet", levels=levels, pretrained=file).eval()

    assert all(map(torch.equal, backbone(pixels).values(), expected))


def test_stages_after_the_last_map_are_taken_out():
    whole = build_backbone("mobilenetv2_050", levels=LEVELS)
    short = build_backbone("mobilenetv2_050", levels=("C3", "C4"))

    assert len(list(short.parameters())) < len(list(whole.parameters()))
    assert short.state_dict().keys() < whole.state_dict().keys()
    assert all(parameter.requires_grad for parameter in short.parameters())


def test_weights_that_cannot_be_taken_out_are_frozen(pixels):
    backbone = build_backbone("hrnet_w18_small", levels=("C3", "C4"))

    frozen = [name for name, p in backbone.named_parameters() if not p.requires_grad]

    assert frozen
    assert list(backbone(pixels)) == ["C3", "C4"]


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("test_convnext", (0.5, 0.5, 0.5)),
        ("test_convnext.r160_in1k", (0.5, 0.5, 0.5)),
        ("test_efficientnet", (0.485, 0.456, 0.406)),
        ("torchvision/mobilenet_v2", (0.485, 0.456, 0.406)),
        ("torchvision/googlenet", (0.5, 0.5, 0.5)),
    ],
)
def test_the_mean_is_that_of_the_published_weights(name, mean):
    assert build_backbone(name, levels=("C3",)).mean == mean


def test_a_backbone_is_in_training_mode_with_untouched_statistics():
    backbone = build_backbone("test_efficientnet", levels=("C3", "C4"))

    counts = [b for n, b in backbone.named_buffers() if n.endswith("num_batches_tracked")]

    assert backbone.training
    assert {int(count) for count in counts} == {0}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("test_vit", "strides"),
        ("swin_tiny_patch4_window7_224", "channels-last"),
        ("halonet26t", "fails on images of 96x160"),
        ("levit_128s", "has no level C3"),
        ("torchvision/swin_t", r"block 0 returns shape \[1, 32, 32, 96\]"),
        ("torchvision/vit_b_32", "block 1 failed"),
        ("torchvision/squeezenet1_1", "has no level C3"),
        ("torchvision/inception_v3", "has no level C3"),
    ],
)
def test_a_network_that_is_no_pyramid_is_refused_with_the_reason(name, reason):
    with pytest.raises(ConfigError, match=f"Backbone '{name.split('/')[-1]}' .*{reason}"):
        build_backbone(name, levels=LEVELS)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("resnet81", "resnet"),
        ("torchvision/resnet81", "resnet"),
        ("qqqqqq", "Nothing is similar"),
        ("test_convnext.r161_in1k", "test_convnext.r160_in1k"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match=f"(?s)Unknown .* backbone .*{nearest}"):
        build_backbone(name, levels=LEVELS)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        (("C3", "C6"), "has 'C6'"),
        ((), "consecutive levels"),
        (("C3", "C5"), "consecutive levels"),
        (("C4", "C3"), "consecutive levels"),
        (("C3", "C3"), "consecutive levels"),
    ],
)
def test_levels_that_make_no_pyramid_are_refused(levels, message):
    with pytest.raises(ConfigError, match=message):
        build_backbone("test_efficientnet", levels=levels)


@pytest.mark.parametrize("name", ["test_efficientnet", "torchvision/mobilenet_v2"])
def test_a_missing_file_of_weights_is_named(name, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.pth: no such file of weights"):
        build_backbone(name, levels=LEVELS, pretrained=tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["test_efficientnet", "torchvision/mobilenet_v2"])
def test_weights_of_another_network_are_refused(name, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=r"weights\.pth"):
        build_backbone(name, levels=LEVELS, pretrained=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["test_efficientnet", "torchvision/mobilenet_v2"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.github.com"])
def test_a_file_that_holds_no_weights_is_refused(name, content, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)

    with pytest.raises(WeightsError, match=r"weights\.pth: not a file of weights"):
        build_backbone(name, levels=LEVELS, pretrained=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["test_efficientnet", "torchvision/mobilenet_v2"])
@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, 2))])
def test_code_in_a_file_of_weights_is_refused_and_not_run(name, save, tmp_path):
    save({"w": WritesAFile()}, tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=r"weights\.pth: contains code"):
        build_backbone(name, levels=LEVELS, pretrained=tmp_path / "weights.pth")

    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "test_efficientnet"])
def test_a_download_that_fails_names_the_backbone_and_the_way_out(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # Read from the environment at import; online, a failed download is tried again for a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    bare = name.removeprefix("torchvision/")

    with pytest.raises(WeightsError, match=rf"(?s)'{bare}'.*download.*Give `pretrained` the path"):
        build_backbone(name, levels=LEVELS, pretrained=True)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_torchvision_weights_are_read_from_both_formats(suffix, tmp_path):
    state = models.mobilenet_v2(weights=None).state_dict()
    file = tmp_path / f"weights.{suffix}"
    {"safetensors": save_file, "pth": torch.save}[suffix](state, file)

    backbone = build_backbone("torchvision/mobilenet_v2", levels=("C3",), pretrained=file)

    found = backbone.state_dict()["body.0.0.weight"]
    assert torch.equal(found, state["features.0.0.weight"])


@pytest.mark.parametrize(
    ("left_out", "missing"),
    [
        ("blocks.1.0.bn2.running_var", r"1 tensors .*'blocks\.1\.0\.bn2\.running_var'"),
        ("conv_stem.weight", r"1 tensors .*'conv_stem\.weight'"),
        ("", r"68 tensors"),
    ],
)
def test_weights_that_would_be_left_at_random_are_named(left_out, missing, tmp_path):
    state = timm.create_model("test_efficientnet").state_dict()
    kept = {n: t for n, t in state.items() if left_out not in n} or {"other": torch.zeros(1)}
    torch.save(kept, tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=rf"weights\.pth could not be loaded \({missing}"):
        build_backbone("test_efficientnet", levels=LEVELS, pretrained=tmp_path / "weights.pth")


def test_of_weights_of_another_network_three_tensors_and_the_count_are_shown(tmp_path):
    state = timm.create_model("test_efficientnet").state_dict()
    other = {n: t.repeat(2, *[1] * (t.dim() - 1)) if t.dim() else t for n, t in state.items()}
    torch.save(other, tmp_path / "weights.pth")

    with pytest.raises(WeightsError) as caught:
        build_backbone("test_efficientnet", levels=LEVELS, pretrained=tmp_path / "weights.pth")

    message = str(caught.value)
    assert "tensors have another shape than those of the network: conv_stem.weight is " in message
    assert message.count(" and must be ") == 3
    assert len(message) < 500 + len(str(tmp_path))


def test_weights_of_a_whole_classifier_load_without_a_warning(tmp_path, caplog):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.pth")

    build_backbone("test_efficientnet", levels=("C3",), pretrained=tmp_path / "weights.pth")

    assert caplog.records == []


def test_reading_weights_takes_no_random_numbers_more_than_building(tmp_path):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "weights.pth")
    torch.manual_seed(0)
    build_backbone("test_efficientnet", levels=("C3",))
    expected = torch.rand(1)

    torch.manual_seed(0)
    build_backbone("test_efficientnet", levels=("C3",), pretrained=tmp_path / "weights.pth")

    assert torch.rand(1) == expected


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "timm/tf_efficientnet_lite1.in1k"])
def test_efficientnet_lite_sees_pixels_as_it_was_trained(name):
    backbone = build_backbone(name, levels=("C3",))

    # (x - 127) / 128 of bytes.
    assert backbone.mean == pytest.approx([127 / 255] * 3)
    assert backbone.std == pytest.approx([128 / 255] * 3)


def as_average(state):
    """As the moving average in checkpoints of torchvision's reference script."""
    named = {f"module.{name}": tensor for name, tensor in state.items()}
    return {"model": {}, "model_ema": {"n_averaged": torch.tensor(8), **named}}


@pytest.mark.parametrize("wrap", [dict, as_average])
@pytest.mark.parametrize("num_classes", [5, 1000])
def test_a_fine_tuned_classifier_gives_its_backbone(wrap, num_classes, tmp_path):
    state = models.resnet18(weights=None, num_classes=num_classes).state_dict()
    torch.save(wrap(state), tmp_path / "weights.pth")

    backbone = build_backbone(
        "torchvision/resnet18", levels=LEVELS, pretrained=tmp_path / "weights.pth"
    )

    assert torch.equal(
        backbone.state_dict()["body.layer4.1.conv2.weight"], state["layer4.1.conv2.weight"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(more=torch.zeros(1)), r"0 tensors are missing .* 1 unknown .*'more'"),
        (lambda s: s.pop("conv1.weight"), r"1 tensors are missing \(such as \['conv1.weight'\]"),
        (lambda s: s.update({"conv1.weight": torch.zeros(1)}), r"(?s)could not be loaded.*conv1"),
        (lambda s: s["bn1.bias"].fill_(float("inf")), r"1 tensors .* not finite .*'bn1\.bias'"),
    ],
)
def test_weights_of_a_torchvision_backbone_are_whole_and_finite(change, message, tmp_path):
    state = models.resnet18(weights=None).state_dict()
    change(state)
    torch.save(state, tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=message):
        build_backbone("torchvision/resnet18", levels=LEVELS, pretrained=tmp_path / "weights.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_timm_backbone_are_finite(value, tmp_path):
    state = timm.create_model("test_efficientnet").state_dict()
    state["bn1.bias"].fill_(value)
    torch.save(state, tmp_path / "weights.pth")

    with pytest.raises(WeightsError, match=r"weights\.pth: 1 tensors .* not finite .*'bn1\.bias'"):
        build_backbone("test_efficientnet", levels=LEVELS, pretrained=tmp_path / "weights.pth")

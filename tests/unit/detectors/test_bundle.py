import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from distildet.classes import ClassList
from distildet.detectors.bundle import (
    build_detector,
    bundle_fingerprint,
    load_detector,
    save_detector,
)
from distildet.errors import ConfigError, WeightsError


@pytest.fixture
def bundle(tiny, tmp_path):
    save_detector(tiny, tmp_path / "student")
    return tmp_path / "student"


@pytest.fixture
def change_config(bundle):
    """Overwrite some keys of the bundle's configuration."""

    def change(**values):
        path = bundle / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def change_weights(bundle, change):
    tensors = load_file(bundle / "model.safetensors")
    change(tensors)
    save_file(tensors, bundle / "model.safetensors")


def test_a_bundle_gives_the_same_detector_in_eval_mode(tiny, bundle):
    images = [torch.rand(3, 40, 60, generator=torch.Generator().manual_seed(1))]

    loaded = load_detector(bundle)

    assert loaded.spec == tiny.spec
    assert not loaded.training
    torch.testing.assert_close(loaded.state_dict(), tiny.state_dict(), rtol=0, atol=0)
    (expected,), (found,) = tiny.predict(images), loaded.predict(images)
    assert len(found) > 0
    assert found.boxes.equal(expected.boxes)
    assert found.scores.equal(expected.scores)


def test_a_bundle_says_what_the_detector_expects(bundle):
    config = json.loads((bundle / "config.json").read_text())

    assert config["family"] == "retinanet"
    assert config["classes"] == ["car", "no"]
    assert config["image_size"] == 64
    assert config["preprocessing"]["colour"] == "RGB 0..1"
    assert config["options"]["backbone_levels"] == ["C3", "C4"]
    assert "pretrained" not in config["options"]


def test_a_bundle_is_loaded_from_a_path_given_as_text(bundle):
    assert load_detector(str(bundle)).spec.family == "retinanet"


def test_channels_last_weights_are_saved_as_they_are(tiny, tmp_path):
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}

    save_detector(tiny.to(memory_format=torch.channels_last), tmp_path / "student")

    torch.testing.assert_close(
        load_detector(tmp_path / "student").state_dict(), before, rtol=0, atol=0
    )


def test_an_older_bundle_is_replaced_as_a_whole(bundle, make_detector):
    save_detector(make_detector(neck_channels=4), bundle)

    assert load_detector(bundle).spec.options["neck_channels"] == 4
    assert sorted(path.name for path in bundle.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_with_other_files_is_not_replaced(tiny, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")

    with pytest.raises(ConfigError, match=r"other files \(such as 'thesis.tex'\)"):
        save_detector(tiny, tmp_path)

    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="not a detector bundle"):
        load_detector(tmp_path)
    with pytest.raises(WeightsError, match="not a detector bundle"):
        bundle_fingerprint(tmp_path / "missing")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": "one"}', '{"format": null}'])
def test_a_configuration_that_is_none_is_refused(bundle, content):
    (bundle / "config.json").write_text(content)

    with pytest.raises(WeightsError, match=r"config\.json: not a bundle configuration"):
        load_detector(bundle)


def test_a_newer_format_is_refused(bundle, change_config):
    change_config(format=2)

    with pytest.raises(WeightsError, match=r"format 2 is newer .* \(1\)\. Update distildet"):
        load_detector(bundle)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"family": "retinanot"}, "Unknown detector 'retinanot'"),
        ({"family": 3}, "family"),
        ({"classes": ["car", "car"]}, "occurs 2 times"),
        ({"classes": ["car", 3]}, "classes"),
        ({"classes": ["car"]}, "size mismatch for head.classification_head.cls_logits"),
        ({"image_size": "64"}, "image_size"),
        ({"image_size": 0}, "image_size"),
        ({"options": []}, "options"),
        ({"options": {"pretrained": True}}, "`pretrained` is no option of a bundle"),
        ({"options": {"dept": 3}}, "Unknown option 'dept'"),
        ({"options": {"backbone": "test_efficientnet", "head_depth": "x"}}, "not supported"),
    ],
)
def test_a_changed_configuration_is_refused_with_the_reason(bundle, change_config, values, reason):
    change_config(**values)

    with pytest.raises(WeightsError, match=f"(?s)student: the bundle is damaged.*{reason}"):
        load_detector(bundle)


@pytest.mark.parametrize("length", [0, 4, 1000, -1])
def test_truncated_weights_are_refused(bundle, length):
    file = bundle / "model.safetensors"
    file.write_bytes(file.read_bytes()[:length])

    with pytest.raises(WeightsError, match="the bundle is damaged"):
        load_detector(bundle)


def test_a_header_of_terabytes_is_refused(bundle):
    (bundle / "model.safetensors").write_bytes((10**12).to_bytes(8, "little") + b"{}")

    with pytest.raises(WeightsError, match="the bundle is damaged"):
        load_detector(bundle)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tensors: tensors.popitem(), "Missing key"),
        (lambda tensors: tensors.update(more=torch.zeros(1)), "Unexpected key.*more"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_keys(bundle, change, reason):
    change_weights(bundle, change)

    with pytest.raises(WeightsError, match=f"(?s)the bundle is damaged.*{reason}"):
        load_detector(bundle)


def test_the_fingerprint_follows_weights_and_configuration(bundle, change_config):
    first, again = bundle_fingerprint(bundle), bundle_fingerprint(bundle)
    change_config(classes=["bus", "no"])
    other_classes = bundle_fingerprint(bundle)
    change_weights(bundle, lambda tensors: next(iter(tensors.values())).add_(1))
    other_weights = bundle_fingerprint(bundle)

    assert first == again
    assert len({first, other_classes, other_weights}) == 3


def test_an_unknown_family_or_option_is_answered_with_the_nearest():
    classes = ClassList(("car",))

    with pytest.raises(ConfigError, match=r"Unknown detector 'retina'.*retinanet"):
        build_detector("retina", classes=classes)
    with pytest.raises(
        ConfigError, match=r"(?s)'neck_chanels'.*mean 'neck_channels'.*'depth'.*head_depth"
    ):
        build_detector("retinanet", classes=classes, neck_chanels=8, depth=1)

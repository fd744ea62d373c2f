import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from distildet.classes import ClassList
from distildet.detectors.bundle import (
    build_detector,
    bundle_fingerprint,
    load_detector,
    save_detector,
)
from distildet.errors import ClassMapError, ConfigError, WeightsError


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


@pytest.fixture
def stock_file(tmp_path):
    """Weights of a stock RetinaNet with three columns."""
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    torch.save(detection.RetinaNet(backbone, 3).state_dict(), tmp_path / "stock.pth")
    return tmp_path / "stock.pth"


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


FORMATS = ['{"format": "one"}', '{"format": null}', '{"format": 1e999}', "[" * 100_000]


@pytest.mark.parametrize("content", ["{", "[]", "{}", *FORMATS])
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
        ({"options": {"backbone": 5}}, "backbone|'int'"),
        ({"options": {"backbone": "test_efficientnet", "backbone_levels": 0}}, "backbone_levels"),
        ({"options": {"backbone": "test_efficientnet", "anchor_scale": 1e999}}, "infinity"),
        ({"options": {"backbone": "test_efficientnet", "head_depth": "x"}}, "head_depth is 'x'"),
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


@pytest.mark.parametrize("classes", [["a", "b", "c"], ("a", "b", "c"), ClassList(("a", "b", "c"))])
def test_a_file_of_stock_weights_is_loaded_with_its_options(stock_file, classes):
    detector = load_detector(str(stock_file), classes=classes, image_size=320)

    assert detector.spec.family == "retinanet"
    assert detector.spec.classes == ClassList(("a", "b", "c"))
    assert detector.spec.image_size == 320
    assert not detector.training


@pytest.mark.parametrize("name", ["stock.PTH", "stock.pt"])
def test_stock_weights_are_known_by_the_end_of_their_name(stock_file, name):
    file = stock_file.rename(stock_file.with_name(name))

    assert len(load_detector(file, classes=["a", "b"]).spec.classes) == 2


def test_a_bundle_may_have_the_name_of_a_file(tiny, tmp_path):
    save_detector(tiny, tmp_path / "student.pth")

    assert load_detector(tmp_path / "student.pth").spec == tiny.spec


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"classes": ["car", "no"]}, "classes cannot"),
        ({"image_size": 64}, "image_size cannot"),
        ({"classes": ["a"], "batch_norm_eps": 0.0}, "classes and batch_norm_eps cannot"),
    ],
)
def test_options_of_files_are_refused_for_a_bundle(bundle, options, named):
    with pytest.raises(ConfigError, match=rf"student: {named} be given for a bundle.*\.pth"):
        load_detector(bundle, **options)


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ("abc", ConfigError, r"stock\.pth: `classes` is the text 'abc'.*list of names"),
        (["a", "b", "a"], ClassMapError, "'a' occurs 2 times"),
    ],
)
def test_classes_that_are_no_list_of_names_are_refused(stock_file, classes, error, message):
    with pytest.raises(error, match=message):
        load_detector(stock_file, classes=classes)


@pytest.mark.parametrize("read", [load_detector, bundle_fingerprint])
def test_a_missing_file_of_stock_weights_is_named(tmp_path, read):
    with pytest.raises(WeightsError, match=r"none\.pth: no such file of weights"):
        read(tmp_path / "none.pth")


def test_the_fingerprint_of_stock_weights_follows_file_and_options(stock_file):
    plain = bundle_fingerprint(stock_file)
    named = bundle_fingerprint(stock_file, classes=["a", "b", "c"])
    as_list = bundle_fingerprint(stock_file, classes=ClassList(("a", "b", "c")))
    others = [
        bundle_fingerprint(stock_file, classes=["a", "b", "d"]),
        bundle_fingerprint(stock_file, image_size=320),
    ]
    torch.save({"other": torch.zeros(1)}, stock_file)

    assert named == as_list
    assert len({plain, named, *others, bundle_fingerprint(stock_file)}) == 5


def test_the_fingerprint_of_a_bundle_takes_no_options(bundle):
    with pytest.raises(ConfigError, match="image_size cannot be given for a bundle"):
        bundle_fingerprint(bundle, image_size=320)

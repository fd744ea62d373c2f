import pickle
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from distildet.detectors.weights_file import read_weights
from distildet.errors import WeightsError

TENSORS = {"a.weight": torch.arange(3.0), "b": torch.zeros(2, 2)}


class WritesAFile:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize(
    ("content", "is_checkpoint"),
    [
        (TENSORS, False),
        ({"model": TENSORS, "args": Namespace(lr=0.1), "epoch": 3}, True),
        ({"state_dict": TENSORS, "state_dict_ema": TENSORS}, True),
        ({"model": {f"module.{name}": value for name, value in TENSORS.items()}}, True),
    ],
)
def test_tensors_are_read_from_a_state_dict_and_from_checkpoints(content, is_checkpoint, file):
    torch.save(content, file)

    found = read_weights(file)

    assert found.is_checkpoint == is_checkpoint
    torch.testing.assert_close(found.tensors, TENSORS)


def test_the_moving_average_of_a_checkpoint_comes_first(file):
    torch.save({"model": {"a": torch.zeros(1)}, "model_ema": {"a": torch.ones(1)}}, file)

    assert read_weights(file).tensors == {"a": torch.ones(1)}


@pytest.mark.parametrize("name", ["weights.safetensors", "WEIGHTS.SAFETENSORS"])
def test_safetensors_are_read(name, tmp_path):
    save_file(TENSORS, tmp_path / name)

    found = read_weights(tmp_path / name)

    torch.testing.assert_close(found.tensors, TENSORS)
    assert not found.is_checkpoint


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o, 2))])
def test_code_is_refused_and_not_run(save, file):
    save({"w": WritesAFile()}, file)

    with pytest.raises(WeightsError, match=r"contains code \(.*save only model.state_dict"):
        read_weights(file)

    assert not Path("executed").exists()


def test_a_whole_model_is_code(file):
    torch.save(resnet18(), file)

    with pytest.raises(WeightsError, match=r"weights.pth: contains code \(torchvision.*ResNet\)"):
        read_weights(file)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"version https://git-lfs.github.com/spec/v1", b"PK\x05\x06" + bytes(18)],
)
@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_other_files_are_refused(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(WeightsError, match=rf"{name}: not a file of weights \(.+\)\. Accepted"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("is_archive", [True, False])
@pytest.mark.parametrize("left", [5, 1000, -10])
def test_a_file_that_is_cut_off_is_said_to_be(is_archive, left, file):
    tensors = {"a": torch.zeros(1000)}
    torch.save(tensors, file, _use_new_zipfile_serialization=is_archive)
    file.write_bytes(file.read_bytes()[:left])

    with pytest.raises(
        WeightsError, match=r"not a file of weights \(it ends .* may be cut off: co"
    ):
        read_weights(file)


def test_safetensors_that_are_cut_off_are_said_to_be(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:-5])

    with pytest.raises(
        WeightsError, match=r"not a file of weights \(it ends .* may be cut off: co"
    ):
        read_weights(path)


def test_a_single_byte_is_refused(file):
    file.write_bytes(b"\x80")

    with pytest.raises(WeightsError, match=r"not a file of weights \(index out of range\)"):
        read_weights(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02J\x00", "it ends too early"),  # struct.error
        (b"\x80\x02}]K\x01s.", "unhashable type: 'list'"),  # TypeError
    ],
)
def test_bytes_that_make_torch_stumble_are_refused(content, reason, file):
    file.write_bytes(content)

    with pytest.raises(WeightsError, match=rf"weights.pth: not a file of weights \({reason}"):
        read_weights(file)


def test_a_damaged_end_of_an_archive_is_refused(file):
    torch.save(TENSORS, file)
    content = bytearray(file.read_bytes())
    # The end is 22 bytes; before it stands, in four, the number of disks that the archive spans.
    content[-24] = 228
    file.write_bytes(content)

    with pytest.raises(WeightsError, match=r"weights.pth: not a file of weights \(.+\)\. Accepted"):
        read_weights(file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([torch.zeros(1)], "it holds list"),
        (torch.zeros(1), "it holds Tensor"),
        ({}, "it holds dict"),
        ({"model": 3}, "it holds int"),
        ({"epoch": 3}, "its entry 'epoch' is of type int"),
        ({1: torch.zeros(1)}, "its entry 1 has no text as name"),
        ({"model": {(): torch.zeros(1)}}, r"its entry \(\) has no text as name"),
    ],
)
def test_a_file_without_named_tensors_is_refused(content, reason, file):
    torch.save(content, file)

    with pytest.raises(WeightsError, match=rf"not a file of weights \({reason}"):
        read_weights(file)


@pytest.mark.parametrize("path", ["missing.pth", "."])
def test_what_is_no_file_is_named(path, tmp_path):
    with pytest.raises(WeightsError, match="no such file of weights"):
        read_weights(tmp_path / path)

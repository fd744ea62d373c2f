import json

import pytest
import torch

from distildet.errors import ResourceError, StageError
from distildet.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    newest_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
    step_checkpoints,
)


def save(folder, step, value=0.0):
    tensors = {"model": {"w": torch.full((3,), value)}, "ema": {"w": torch.zeros(3)}}
    return save_checkpoint(
        folder, f"step-{step:06d}", Checkpoint(step=step, tensors=tensors, state={"best": None})
    )


def truncate(path):
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(path):
    file = path / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose_the_manifest(path):
    (path / "manifest.json").unlink()


def lose_a_file(path):
    (path / "ema.safetensors").unlink()


def spoil_the_manifest(path):
    (path / "manifest.json").write_text("[1")


def empty_the_manifest(path):
    (path / "manifest.json").write_text('{"format": 1, "sha256": {}}')


def list_no_hashes(path):
    (path / "manifest.json").write_text('{"format": 1, "sha256": 3}')


DAMAGES = [
    (truncate, "model.safetensors does not have the hash"),
    (flip_a_bit, "model.safetensors does not have the hash"),
    (lose_the_manifest, "manifest.json cannot be read"),
    (lose_a_file, "ema.safetensors cannot be read"),
    (spoil_the_manifest, "manifest.json is damaged"),
    (empty_the_manifest, "manifest.json does not list state.json"),
    (list_no_hashes, "manifest.json is damaged"),
]


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = save(tmp_path, 7, value=1.5)

    loaded = load_checkpoint(path)

    assert loaded.step == 7
    assert loaded.state == {"best": None}
    assert loaded.tensors.keys() == {"model", "ema"}
    assert loaded.tensors["model"]["w"].tolist() == [1.5, 1.5, 1.5]


def test_a_file_that_the_manifest_does_not_list_is_not_loaded(tmp_path):
    path = save(tmp_path, 7)
    (path / "foreign.safetensors").write_bytes(b"not tensors")

    assert load_checkpoint(path).tensors.keys() == {"model", "ema"}


def test_a_stage_without_checkpoints_has_none(tmp_path):
    assert newest_checkpoint(tmp_path / "checkpoints") == (None, [])


def test_steps_are_ordered_by_number_beyond_six_digits(tmp_path):
    for name in ("step-999999", "step-1000000", "step-000002", "step-3 (copy)", "best"):
        (tmp_path / name).mkdir()

    assert [path.name for path in step_checkpoints(tmp_path)] == [
        "step-000002",
        "step-999999",
        "step-1000000",
    ]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_of_a_damaged_newest_checkpoint_the_one_before_is_used(tmp_path, damage, reason):
    save(tmp_path, 10, value=1.0)
    damage(save(tmp_path, 20, value=2.0))

    checkpoint, skipped = newest_checkpoint(tmp_path)

    assert checkpoint.step == 10
    assert checkpoint.tensors["model"]["w"].tolist() == [1.0, 1.0, 1.0]
    assert len(skipped) == 1
    assert f"step-000020: skipped, {reason}" in skipped[0]


def test_damaged_checkpoints_alone_are_an_error_that_lists_them(tmp_path):
    truncate(save(tmp_path, 10))
    lose_the_manifest(save(tmp_path, 20))

    with pytest.raises(ResourceError, match=r"(?s)step-000020.*manifest.*step-000010.*hash"):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path):
    save(tmp_path, 10)
    manifest = save(tmp_path, 20) / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 2}))

    with pytest.raises(StageError, match=r"format 2 is newer .* \(1\)\. Update distildet"):
        newest_checkpoint(tmp_path)


def test_what_a_killed_writer_left_is_deleted(tmp_path):
    save(tmp_path, 10)
    (tmp_path / ".partial-step-000020").mkdir()

    newest_checkpoint(tmp_path)

    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.1),
    ],
    ids=["sgd", "adamw"],
)
@pytest.mark.parametrize("shape", [(64, 33, 3, 3), (7, 5, 1, 1), (13,), ()])
def test_a_restored_optimiser_goes_on_to_the_same_bits(make, shape):
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(shape, generator=generator) for _ in range(4)]
    start = torch.randn(shape, generator=generator)

    def parameter():
        layout = torch.channels_last if len(shape) == 4 else torch.contiguous_format
        return torch.nn.Parameter(start.clone().contiguous(memory_format=layout))

    def steps(optimizer, tensor, chosen):
        for gradient in chosen:
            tensor.grad = torch.empty_like(tensor).copy_(gradient)
            optimizer.step()

    whole = parameter()
    steps(make([whole]), whole, gradients)
    first = parameter()
    stopped = make([first])
    steps(stopped, first, gradients[:2])
    second = parameter()
    second.data.copy_(first.data)
    resumed = make([second])

    restore_optimizer(
        resumed, {name: t.contiguous() for name, t in optimizer_tensors(stopped).items()}
    )
    strides = {name: t.stride() for name, t in optimizer_tensors(resumed).items()}
    steps(resumed, second, gradients[2:])

    assert strides == {name: t.stride() for name, t in optimizer_tensors(stopped).items()}
    assert second.equal(whole)

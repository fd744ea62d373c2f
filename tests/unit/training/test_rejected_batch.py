import json
from dataclasses import replace

import torch
from safetensors.torch import load_file

from distildet.training.rejected_batch import save_rejected_batch


def test_a_batch_comes_back_with_its_spoiled_numbers(batch_of, tmp_path):
    batch, targets = batch_of(3, images=2)
    batch.pixels[1, 2, 3, 4] = float("nan")
    spoiled = replace(
        targets[0], boxes=torch.tensor([[0.0, 0.0, float("inf"), 5.0]]), scores=torch.tensor([0.5])
    )

    save_rejected_batch(tmp_path / "step-000003", batch, [spoiled, targets[1]])

    pixels = load_file(tmp_path / "step-000003" / "pixels.safetensors")["pixels"]
    described = json.loads((tmp_path / "step-000003" / "targets.json").read_text())
    torch.testing.assert_close(pixels, batch.pixels, rtol=0, atol=0, equal_nan=True)
    assert described[0] == {
        "image": "3-0",
        "size": [32, 32],
        "boxes": [[0.0, 0.0, float("inf"), 5.0]],
        "labels": [1],
        "weights": [1.0],
        "scores": [0.5],
        "ignore": [],
    }
    assert described[1]["boxes"] == []
    assert described[1]["scores"] is None

"""Keeps a batch whose loss was not finite, so that it can be looked at."""

import json
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from distildet import artefacts
from distildet.structures import ImageBatch, Targets


def save_rejected_batch(folder: Path, batch: ImageBatch, targets: Sequence[Targets]) -> None:
    """Write pixels, valid sizes, boxes and image ids of a batch.

    Args:
        folder: New folder; `pixels.safetensors` and `targets.json` are in it.
        batch: The images.
        targets: One an image.
    """
    described = [
        {
            "image": image_id,
            "size": size.tolist(),
            "boxes": target.boxes.tolist(),
            "labels": target.labels.tolist(),
            "weights": target.weights.tolist(),
            "scores": None if target.scores is None else target.scores.tolist(),
            "ignore": target.ignore.tolist(),
        }
        for image_id, size, target in zip(batch.image_ids, batch.sizes, targets, strict=True)
    ]
    with artefacts.new_folder(folder) as temporary:
        pixels = batch.pixels.detach().cpu().contiguous()
        (temporary / "pixels.safetensors").write_bytes(save({"pixels": pixels}))
        # A NaN box is what one looks for here, so Python's NaN spelling is allowed in this file.
        (temporary / "targets.json").write_text(json.dumps(described), encoding="utf-8")

"""`distildet label` and `evaluate` as torchrun starts them, against the same command alone."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.detectors.bundle import build_detector, save_detector

pytestmark = pytest.mark.slow

SIZES = [(64, 48), (40, 64), (64, 20), (64, 48), (30, 30), (64, 64), (20, 64)]


@pytest.fixture
def start(tmp_path):
    """Give a function that runs a command in some processes, beside seven images and a model."""
    (tmp_path / "images").mkdir()
    numbers = np.random.default_rng(0)
    for index, (width, height) in enumerate(SIZES):
        pixels = numbers.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index}.png")
    torch.manual_seed(0)
    detector = build_detector(
        "retinanet",
        classes=ClassList(("car",)),
        backbone="test_efficientnet",
        image_size=64,
        neck_channels=8,
        head_depth=1,
    )
    torch.nn.init.zeros_(detector.head.classification_head.predictor.bias)
    save_detector(detector, tmp_path / "model")

    def run(processes, *command):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        several = [*torchrun, str(processes)] if processes > 1 else []
        loading = ["--device", "cpu", "--workers", "1", "--batch-size", "2"]
        return subprocess.run(
            [sys.executable, *several, "-m", "distildet", *command, *loading],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    return run


@pytest.fixture
def label(start):
    """Give a function that labels the images with some processes."""

    def run(processes, out, *options):
        return start(
            processes, "label", "model", "images", "--out", out, "--threshold", "0", *options
        )

    return run


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_processes_of_torchrun_write_the_bytes_of_one(label, tmp_path):
    (tmp_path / "images" / "bad.png").write_bytes(b"<html>")
    alone = label(1, "one")
    together = label(2, "two")

    assert together.returncode == 0, together.stderr
    told = [line for line in together.stdout.splitlines() if "score" in line]
    assert told == [line for line in alone.stdout.splitlines() if "score" in line]
    assert content_of(tmp_path / "two") == content_of(tmp_path / "one")
    assert len((tmp_path / "two" / "quarantine.jsonl").read_text().splitlines()) == 1


def test_an_image_that_one_process_cannot_decode_is_told_once(label, tmp_path):
    (tmp_path / "images" / "bad.png").write_bytes(b"<html>")

    done = label(2, "two", "--on-bad-image", "error")

    assert done.returncode != 0
    assert done.stderr.count("distildet: images/bad.png: ") == 1


def test_evaluation_in_two_processes_is_told_once_and_as_that_of_one(start, tmp_path):
    boxes = [[4, 4, 20, 20], [10, 12, 20, 30], [2, 1, 18, 15]]
    document = {
        "images": [
            {"id": index, "file_name": f"{index}.png", "width": width, "height": height}
            for index, (width, height) in enumerate(SIZES)
        ],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [
            {"id": 1 + i, "image_id": i, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
            for i, box in enumerate(boxes)
        ],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    evaluate = ["evaluate", "model", "--images", "images", "--annotations", "boxes.json", "--json"]

    alone, together = start(1, *evaluate), start(2, *evaluate)

    assert together.returncode == 0, together.stderr
    assert together.stdout == alone.stdout
    assert json.loads(alone.stdout)["metrics"]["AR100"] > 0

"""`distildet label` as torchrun starts it, against the same command alone."""

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
def label(tmp_path):
    """Give a function that labels seven images with some processes; return what was printed."""
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

    def run(processes, out, *options):
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        start = [*torchrun, str(processes)] if processes > 1 else []
        command = ["label", "model", "images", "--out", out, "--threshold", "0", *options]
        loading = ["--device", "cpu", "--workers", "1", "--batch-size", "2"]
        return subprocess.run(
            [sys.executable, *start, "-m", "distildet", *command, *loading],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
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

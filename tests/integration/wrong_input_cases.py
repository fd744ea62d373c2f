"""Small trees of images and annotations, and the ways in which each can be wrong.

A tree is what `make_tree` writes; a case changes it and says what the program must answer. The
numbers in the names of the cases are those of the table of faults that the project is held to.
"""

import json
import os
import socket
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.cli import main
from distildet.detectors.bundle import save_detector
from distildet.detectors.retinanet import RetinaNet

RECIPE = """
name: wrong
data:
  image_size: 64
  workers: 0
  labeled: {{format: {format}, images: images, annotations: {annotations}, strict: {strict}}}
  validation: {{format: {format}, images: more, annotations: {validation}, strict: {strict}}}
student: {{detector: retinanet, backbone: test_efficientnet, pretrained: false}}
stages:
  - {{stage: train, steps: 1, optimizer: {{lr: 1e-3}}}}
"""
RUN = ("run", "in/recipe.yaml", "--out", "out", "--device", "cpu")
PREDICT = ("predict", "{teacher}", "in/images/{file}", "--device", "cpu")
LABEL = ("label", "{teacher}", "in/images", "--out", "out", "--workers", "0", "--device", "cpu")
EVALUATE = (
    *("evaluate", "{teacher}", "--images", "in/images", "--annotations", "in/train.json"),
    *("--workers", "0", "--device", "cpu"),
)
EVALUATE_VOC = (
    *(part.replace("train.json", "Annotations") for part in EVALUATE),
    *("--format", "voc"),
)
EVALUATE_YOLO = (
    *(part.replace("train.json", "data.yaml") for part in EVALUATE),
    *("--format", "yolo"),
)


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A detector of 39 000 weights that finds something everywhere."""
    torch.manual_seed(0)
    detector = RetinaNet(
        ClassList(("car", "no")),
        backbone="test_efficientnet",
        image_size=64,
        backbone_levels=("C3", "C4"),
        extra_levels=0,
        neck_channels=8,
        head_depth=1,
        max_detections=5,
    )
    logits = detector.head.classification_head.cls_logits
    torch.nn.init.normal_(logits.weight, std=3.0)
    torch.nn.init.constant_(logits.bias, -1.0)
    folder = tmp_path_factory.mktemp("teacher") / "bundle"
    save_detector(detector, folder)
    return folder


@pytest.fixture
def tree(tmp_path):
    """A sound tree, to be spoilt."""
    make_tree(tmp_path / "in")
    return tmp_path / "in"


@pytest.fixture
def call(teacher, monkeypatch, capsys):
    """Run the program in this process; return its exit code and all that it printed."""

    def run(command, file=""):
        arguments = [part.format(teacher=teacher, file=file) for part in command]
        monkeypatch.setattr(sys, "argv", ["distildet", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return left.value.code or 0, printed.out + printed.err

    return run


@dataclass(frozen=True, kw_only=True)
class Case:
    """One wrong input.

    Args:
        name: With the number of the table.
        change: Makes the sound tree wrong.
        command: Arguments of the program; `{file}` is the name of the image.
        file: Name of the image that is looked at.
        code: Exit code.
        says: Texts that the answer must have.
    """

    name: str
    change: Callable[[Path], object]
    command: tuple[str, ...] = RUN
    file: str = "a.png"
    code: int = 2
    says: tuple[str, ...] = ()


def picture(seed: int = 0, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """Return noise of a width and height; other seeds give other bytes."""
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def coco(*names: str, **changes: Any) -> dict[str, Any]:
    """Return a sound COCO document with one box an image; `changes` replace whole sections."""
    images = [
        {"id": i, "file_name": name, "width": 32, "height": 32}
        for i, name in enumerate(names, start=1)
    ]
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "bbox": [4, 5, 16, 8], "area": 128, "iscrowd": 0}
        for i in range(1, len(names) + 1)
    ]
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "no"}]
    return {"images": images, "annotations": annotations, "categories": categories, **changes}


def write_recipe(tree: Path, **changes: str) -> None:
    """Write a recipe that trains on train.json and measures on val.json."""
    values = {
        "format": "coco",
        "annotations": "train.json",
        "validation": "val.json",
        "strict": "false",
        **changes,
    }
    (tree / "recipe.yaml").write_text(RECIPE.format(**values))


def make_tree(tree: Path) -> None:
    """Write two images with annotations, one more to measure on, and a recipe."""
    for folder, names in {"images": ("a.png", "b.png"), "more": ("v.png",)}.items():
        (tree / folder).mkdir(parents=True)
        [picture(ord(name[0])).save(tree / folder / name) for name in names]
    (tree / "train.json").write_text(json.dumps(coco("a.png", "b.png")))
    (tree / "val.json").write_text(json.dumps(coco("v.png")))
    write_recipe(tree)


def state(tree: Path) -> dict[str, tuple[int, bytes | str]]:
    """Return name, mode and content of everything in a tree; nothing is followed or waited for."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(tree.rglob("*")):
        content: bytes | str = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif path.is_file():
            content = path.read_bytes()
        found[str(path)] = (path.lstat().st_mode, content)
    return found


def image_bytes(name: str, content: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Replace an image by what is made of its bytes in the format of its name."""

    def change(tree: Path) -> None:
        path = tree / "images" / name
        picture(1, (64, 64)).save(path)
        path.write_bytes(content(path.read_bytes()))

    return change


def image(name: str, make: Callable[[], Image.Image], **options: Any) -> Callable[[Path], object]:
    """Add an image."""
    return lambda tree: make().save(tree / "images" / name, **options)


def content(name: str, data: bytes) -> Callable[[Path], object]:
    """Write a file."""
    return lambda tree: (tree / name).write_bytes(data)


def document(**changes: Any) -> Callable[[Path], object]:
    """Replace whole sections of train.json."""
    text = json.dumps(coco("a.png", "b.png", **changes))
    return lambda tree: (tree / "train.json").write_text(text)


def boxes(*found: Any, strict: bool = False, **fields: Any) -> Callable[[Path], object]:
    """Give train.json these boxes, all of a.png."""
    records = [
        {"id": 30 + i, "image_id": 1, "category_id": 1, "bbox": bbox, **fields}
        for i, bbox in enumerate(found)
    ]

    def change(tree: Path) -> None:
        document(annotations=records)(tree)
        write_recipe(tree, strict="true" if strict else "false")

    return change


def named(file_name: str) -> Callable[[Path], object]:
    """Let a record of train.json name its image like this."""
    return document(images=[{"id": 1, "file_name": file_name, "width": 32, "height": 32}])


def png_header(width: int, height: int) -> bytes:
    """Return a small PNG whose header states a huge size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", 0)


def gif_header(data: bytes) -> bytes:
    """Return a GIF whose header states the largest size."""
    return data[:6] + struct.pack("<HH", 65535, 65535) + data[10:]


def webp_header(data: bytes) -> bytes:
    """Return a lossless WebP with an extended header that states a huge size."""
    canvas = (16383).to_bytes(3, "little") + (16382).to_bytes(3, "little")
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas + data[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def pipe(name: str) -> Callable[[Path], object]:
    """Put a pipe in the place of a file."""
    return lambda tree: ((tree / name).unlink(missing_ok=True), os.mkfifo(tree / name))


def bound_socket(name: str) -> Callable[[Path], object]:
    """Put a socket in the place of a file."""

    def change(tree: Path) -> None:
        (tree / name).unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as opened:
            # Names of sockets are short, so the path is relative to the working folder.
            opened.bind(str((tree / name).relative_to(Path.cwd())))

    return change


def folder(name: str) -> Callable[[Path], object]:
    """Put a folder in the place of a file."""
    return lambda tree: ((tree / name).unlink(missing_ok=True), (tree / name).mkdir())


def link(name: str, target: str) -> Callable[[Path], object]:
    """Put a link in the place of a file."""
    return lambda tree: (
        (tree / name).unlink(missing_ok=True),
        (tree / name).symlink_to(target),
    )


def archive(name: str) -> Callable[[Path], object]:
    """Write an archive with a member that would leave its folder."""

    def change(tree: Path) -> None:
        with zipfile.ZipFile(tree / name, "w") as opened:
            opened.writestr("../../escaped.png", b"x")
            opened.writestr("/tmp/escaped.png", b"x")  # noqa: S108 - is never written

    return change


def all_of(*changes: Callable[[Path], object]) -> Callable[[Path], object]:
    """Do one change after the other."""
    return lambda tree: [change(tree) for change in changes]


def frames(name: str) -> Callable[[Path], object]:
    """Add an image of three frames."""
    more = [picture(seed) for seed in (1, 2)]
    return image(name, picture, save_all=True, append_images=more)


def voc(text: str) -> Callable[[Path], object]:
    """Annotate a.png in the format of VOC."""
    return lambda tree: (
        (tree / "Annotations").mkdir(),
        (tree / "Annotations" / "a.xml").write_text(text),
    )


def yolo(rows: str) -> Callable[[Path], object]:
    """Annotate a.png in the format of YOLO."""
    return lambda tree: (
        (tree / "labels").mkdir(),
        (tree / "labels" / "a.txt").write_text(rows),
        (tree / "data.yaml").write_text("names: [car, no]\n"),
    )

"""Wrong images: each gets its exit code and a named reason; nothing is changed."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# The trees and the ways to spoil them, shared by two test files; tests are not a package.
_spec = importlib.util.spec_from_file_location(
    "wrong_input_cases", Path(__file__).with_name("wrong_input_cases.py")
)
cases = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = cases  # dataclasses look their module up
_spec.loader.exec_module(cases)

Case = cases.Case
LABEL, EVALUATE, PREDICT = cases.LABEL, cases.EVALUATE, cases.PREDICT
teacher, tree, call = cases.teacher, cases.tree, cases.call

IMAGE_CASES = [
    Case(
        name="34 half of a JPEG",
        change=cases.image_bytes("x.jpg", lambda data: data[: len(data) // 2]),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the image is damaged", "Replace the file"),
    ),
    Case(
        name="34 a JPEG without its last two bytes",
        change=cases.image_bytes("x.jpg", lambda data: data[:-2]),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the image is damaged", "truncated"),
    ),
    Case(
        name="34 200 bytes of a JPEG",
        change=cases.image_bytes("x.jpg", lambda data: data[:200]),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the image is damaged", "Truncated", "Replace the file"),
    ),
    Case(
        name="34 an empty file",
        change=cases.content("images/x.jpg", b""),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the file is empty", "Copy or download it again"),
    ),
    Case(
        name="34 one damaged image among those to label",
        change=cases.image_bytes("x.jpg", lambda data: data[:-2]),
        command=LABEL,
        code=0,
        says=("Left out: 1 of 3 images", "quarantine.jsonl"),
    ),
    Case(
        name="34 too many damaged images among those to label",
        change=cases.all_of(cases.content("images/x.jpg", b""), cases.content("images/y.jpg", b"")),
        command=LABEL,
        code=5,
        says=("quarantine.jsonl: lists 2 of 4 images", "max_bad_fraction 0.01"),
    ),
    Case(
        name="35 a page in place of an image",
        change=cases.content("images/x.jpg", b"<!DOCTYPE html><html>404"),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the file is an HTML page", "repeat it"),
    ),
    Case(
        name="35 a Git LFS pointer",
        change=cases.content("images/x.jpg", b"version https://git-lfs.github.com/spec/v1\noid"),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the file is a Git LFS pointer", "git lfs pull"),
    ),
    Case(
        name="35 text",
        change=cases.content("images/x.jpg", b"some text"),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the file is not an image",),
    ),
    *[
        Case(
            name=f"36 a PNG named {file}",
            change=cases.image(file, cases.picture, format="PNG"),
            command=PREDICT,
            file=file,
            code=0,
            says=(f'"{file}"',),
        )
        for file in ("x.jpg", "x.PNG", "x")
    ],
    *[
        Case(
            name=f"37 {file} of a huge size by its header",
            change=change,
            command=PREDICT,
            file=file,
            says=(f"{file}: the image has", "accepted are at most 134217728 (MAX_PIXELS)"),
        )
        for file, change in {
            "x.png": cases.content("images/x.png", cases.png_header(20_000, 20_000)),
            "x.gif": cases.image_bytes("x.gif", cases.gif_header),
            "x.webp": cases.all_of(
                cases.image("x.webp", cases.picture, lossless=True),
                lambda tree: (tree / "images/x.webp").write_bytes(
                    cases.webp_header((tree / "images/x.webp").read_bytes())
                ),
            ),
        }.items()
    ],
    Case(
        name="40 the size of the image before it is turned",
        change=cases.all_of(
            cases.image("a.png", lambda: cases.picture(1, (20, 40))),
            cases.document(
                images=[{"id": 1, "file_name": "a.png", "width": 40, "height": 20}],
                annotations=[],
            ),
        ),
        says=("train.json: the stated width x height", "EXIF", "'a.png' is 20x40, stated 40x20"),
    ),
    Case(
        name="41 float TIFF",
        change=cases.image("x.tif", lambda: Image.fromarray(np.ones((9, 9), dtype=np.float32))),
        command=PREDICT,
        file="x.tif",
        says=("x.tif: found 32-bit grey values", "Save the image with 8 or 16 bits"),
    ),
    *[
        Case(
            name=f"{number} {file} of {width}x{height} in mode {mode}",
            change=cases.image(
                file,
                lambda mode=mode, size=(width, height): Image.new(mode, size),
                **({"transparency": 0} if mode == "P" else {}),
            ),
            command=PREDICT,
            file=file,
            code=0,
            says=(f'"{file}"',),
        )
        for number, file, mode, width, height in [
            (37, "x.png", "RGB", 1, 65535),
            (41, "x.png", "I;16", 32, 32),
            (41, "x.tif", "I;16", 32, 32),
            (42, "x.jpg", "CMYK", 32, 32),
            (42, "x.png", "P", 32, 32),
            (42, "x.png", "LA", 32, 32),
            (42, "x.png", "1", 32, 32),
            (43, "x.png", "RGBA", 32, 32),
            (45, "x.png", "RGB", 1, 1),
            (45, "x.png", "RGB", 2, 3000),
            (45, "x.png", "RGB", 9, 9),
        ]
    ],
    *[
        Case(
            name=f"44 {file} of three frames",
            change=cases.all_of(
                cases.frames(file),
                lambda tree, file=file: (tree / "train.json").write_text(
                    json.dumps(cases.coco("a.png", file))
                ),
            ),
            command=EVALUATE,
            code=0,
            says=("Left out: in/train.json: all frames or pages but the first", repr(file)),
        )
        for file in ("x.gif", "x.png", "x.tif")
    ],
    Case(
        name="46 a labeled image that is a copy of a validation image, strict",
        change=cases.all_of(
            lambda tree: (tree / "images/b.png").write_bytes((tree / "more/v.png").read_bytes()),
            lambda tree: cases.write_recipe(tree, strict="true"),
        ),
        says=("data.labeled has 1 images with the same bytes", "'images/b.png' = 'more/v.png'"),
    ),
    Case(
        name="47 an image that is gone",
        change=lambda tree: (tree / "images/b.png").unlink(),
        says=("train.json: image files must be in", "'b.png'"),
    ),
    *[
        Case(
            name=f"48 {kind} among the annotated images",
            change=change,
            says=("train.json: image files must be in", "'b.png'"),
        )
        for kind, change in {
            "a pipe": cases.pipe("images/b.png"),
            "a socket": cases.bound_socket("images/b.png"),
            "a folder": cases.folder("images/b.png"),
            "a device": cases.link("images/b.png", "/dev/zero"),
        }.items()
    ],
    Case(
        name="48 a pipe among the images to label",
        change=cases.pipe("images/x.jpg"),
        command=LABEL,
        code=0,
        says=("of 2 images",),
    ),
    Case(
        name="49 a loop of folders",
        change=cases.link("images/loop", "."),
        command=LABEL,
        code=0,
        says=("of 2 images",),
    ),
    Case(
        name="49 a link to itself",
        change=cases.link("images/b.png", "b.png"),
        says=("train.json: image files must be in", "'b.png'"),
    ),
    *[
        Case(
            name=f"50 an image named {file!r:.20}",
            change=cases.image(file, cases.picture),
            command=PREDICT,
            file=file,
            code=0,
            says=(json.dumps(file),),
        )
        for file in (
            "a b.png",
            "a'\".png",
            "a\nb.png",
            "\N{GRINNING FACE}.png",
            "\u202egnp.png",
            "\udcff.png",
            "x" * 251 + ".png",
        )
    ],
    Case(
        name="50 odd names among the images to label",
        change=cases.all_of(
            *(
                cases.image(f"{stem}.png", cases.picture)
                for stem in ("a b", "a\nb", "\N{GRINNING FACE}", "\udcff", "x" * 251)
            ),
            cases.content("images/b\n\udcff.png", b""),
        ),
        command=LABEL,
        code=0,
        says=("Left out: 1 of 8 images", "of 7 images", "out/labels.json"),
    ),
    Case(
        name="50 a damaged image with a line feed in its name",
        change=cases.content("images/a\nb.jpg", b""),
        command=PREDICT,
        file="a\nb.jpg",
        says=("\n" r"in/images/a\nb.jpg: the file is empty. Copy or download it again.",),
    ),
]


@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case.name)
def test_wrong_images_are_answered_by_name_and_left_as_they_are(case, tree, call):
    case.change(tree)
    before = cases.state(tree)

    code, printed = call(case.command, case.file)

    assert code == case.code, printed
    assert [text for text in case.says if text not in printed] == [], printed
    assert "Traceback" not in printed
    assert cases.state(tree) == before


def test_boxes_do_not_depend_on_how_exif_turns_the_image(tree, call):
    upright = cases.picture(5, (40, 24))
    stored = {
        1: upright,
        2: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: upright.transpose(Image.Transpose.ROTATE_180),
        4: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: upright.transpose(Image.Transpose.TRANSPOSE),
        6: upright.transpose(Image.Transpose.ROTATE_90),
        7: upright.transpose(Image.Transpose.TRANSVERSE),
        8: upright.transpose(Image.Transpose.ROTATE_270),
    }
    (tree / "turned").mkdir()
    for orientation, image in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.save(tree / "turned" / f"{orientation}.png", exif=exif)

    code, printed = call(
        ("predict", "{teacher}", "in/turned", "--threshold", "0", "--batch-size", "1")
    )

    found = json.loads(printed)
    assert code == 0
    assert len(found["1.png"]) > 0
    assert all(found[f"{orientation}.png"] == found["1.png"] for orientation in stored)

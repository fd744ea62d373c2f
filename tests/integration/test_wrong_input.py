"""Wrong annotations and sources: each gets its exit code and a named reason; nothing is changed."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

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

ANNOTATION_CASES = [
    *[
        Case(
            name=f"{number} a box {bbox}, strict",
            change=cases.boxes(bbox, strict=True),
            says=("train.json: boxes must have an area", "annotation 30", "without strict"),
        )
        for number, bbox in [
            (51, [4, 5, 0, 8]),
            (51, [4, 5, -3, 8]),
            (51, [4, 5, 10**400, 8]),
            (52, [32, 5, 4, 8]),
        ]
    ],
    Case(
        name="52 a box outside the image",
        change=cases.boxes([40, 5, 4, 8]),
        command=EVALUATE,
        code=0,
        says=("Left out: in/train.json: annotation 30 (image 'a.png')", "no area inside"),
    ),
    Case(
        name="51 a box that is not a number",
        change=cases.content("train.json", b'{"images": [],\n"annotations": [{"bbox": [NaN]}]}'),
        says=("train.json: line 2: the value NaN is not JSON", "replace or remove"),
    ),
    Case(
        name="51 a box of three numbers",
        change=cases.boxes([1, 2, 3]),
        says=("train.json: annotations: 'bbox' must be four numbers", "annotation 30"),
    ),
    Case(
        name="53 normalised boxes",
        change=cases.boxes([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0.5, 0.5, 0.2, 0.2]),
        says=("train.json: annotations: 'bbox' must be in pixels", "3 of 3", "'a.png' of 32x32"),
    ),
    Case(
        name="53 corners",
        change=cases.boxes([20, 18, 30, 31], [12, 13, 29, 30], [25, 3, 31, 9]),
        says=("train.json: annotations: 'bbox' must be x y width height", "annotation 32"),
    ),
    *[
        Case(
            name=f"54 categories {categories}",
            change=cases.document(categories=categories),
            says=("train.json: categories:", text),
        )
        for categories, text in [
            ([{"id": "1", "name": "car"}], "'id' must be an integer"),
            ([{"id": 1, "name": "car"}, {"id": 1, "name": "no"}], "'id' must be unique"),
            ([{"id": 1, "name": "car"}, {"id": 2, "name": "car"}], "'name' must be unique"),
        ]
    ],
    Case(
        name="54 category ids with gaps, from 0, unsorted",
        change=cases.document(categories=[{"id": 10**9, "name": "no"}, {"id": 1, "name": "car"}]),
        command=EVALUATE,
        code=0,
        says=("car",),
    ),
    Case(
        name="55 an unknown category",
        change=cases.boxes([1, 2, 3, 4], category_id=9),
        says=("train.json: annotations: 'category_id' must be the id", "annotation 30 has 9"),
    ),
    Case(
        name="55 an unknown image",
        change=cases.boxes([1, 2, 3, 4], image_id=9),
        says=("train.json: annotations: 'image_id' must be the id", "annotation 30 has 9"),
    ),
    Case(
        name="56 an image id that occurs twice",
        change=cases.document(images=cases.coco("a.png")["images"] + cases.coco("b.png")["images"]),
        says=("train.json: images: 'id' must be unique", "1"),
    ),
    Case(
        name="56 an annotation id that occurs twice",
        change=cases.boxes([1, 2, 3, 4], [2, 3, 4, 5], id=7),
        says=("train.json: annotations: 'id' must be unique", "7"),
    ),
    Case(
        name="57 a file name that occurs twice",
        change=cases.document(images=cases.coco("a.png", "./a.png")["images"]),
        says=("train.json: images: 'file_name' must be unique", "'./a.png'"),
    ),
    Case(
        name="57 one stem in two folders",
        change=cases.all_of(
            lambda tree: (tree / "images/sub").mkdir(), cases.image("sub/a.png", cases.picture)
        ),
        command=LABEL,
        code=0,
        says=("of 3 images",),
    ),
    Case(
        name="58 an image without boxes is background",
        change=cases.document(annotations=cases.coco("a.png")["annotations"]),
        command=EVALUATE,
        code=0,
        says=("AP50",),
    ),
    Case(
        name="59 a mask in run-length code without a box",
        change=cases.boxes(None, segmentation={"counts": "abc", "size": [32, 32]}),
        says=("train.json: annotations: 'bbox' must be given", "toBbox", "annotation 30"),
    ),
    Case(
        name="59 polygons without a box",
        change=cases.boxes(None, segmentation=[[4, 5, 20, 5, 20, 13]]),
        command=EVALUATE,
        code=0,
        says=("AP50",),
    ),
    Case(
        name="59 a crowd",
        change=cases.boxes([4, 5, 6, 7], iscrowd=1),
        command=EVALUATE,
        code=0,
        says=("AP50",),
    ),
    *[
        Case(
            name=f"60 a file name {file_name}",
            change=cases.named(file_name),
            says=("train.json: images: file names must be relative", repr(file_name)),
        )
        for file_name in (
            "/etc/passwd",
            "../../x.png",
            "C:\\x.png",
            "\\\\host\\x.png",
            "file:///x.png",
            "http://169.254.0.1/x.png",
        )
    ],
    *[
        Case(name=f"{number} {kind}", change=cases.content("train.json", data), says=says)
        for number, kind, data, says in [
            (61, "nested JSON", b"[" * 200_000, ("train.json: lists or objects are nested",)),
            (61, "JSON that is cut", b'{"images": [\n{"id"', ("train.json: line 2, column 6",)),
            (61, "Latin-1", b'{"a": "\xe9"}', ("train.json: byte 7 is not UTF-8", "Save")),
            (62, "a double key", b'{"a": 1,\n"a": 2}', ("train.json: line 2: key 'a' occurs",)),
            (62, "a comma too many", b'{"images": [],\n}', ("train.json: line 2, column 1",)),
        ]
    ],
    Case(
        name="61 a byte order mark",
        change=lambda tree: (tree / "train.json").write_text(
            (tree / "train.json").read_text(), encoding="utf-8-sig"
        ),
        command=EVALUATE,
        code=0,
        says=("AP50",),
    ),
    Case(
        name="65 an archive in place of the folder of images",
        change=cases.all_of(
            cases.archive("images.zip"),
            lambda tree: (tree / "recipe.yaml").write_text(
                (tree / "recipe.yaml").read_text().replace("images: images,", "images: images.zip,")
            ),
        ),
        says=("images.zip",),
    ),
    Case(
        name="65 an archive to label",
        change=cases.archive("images.zip"),
        command=tuple(part.replace("in/images", "in/images.zip") for part in LABEL),
        says=("images.zip: the folder of images is not a folder", "must be unpacked first"),
    ),
    Case(
        name="65 an archive in place of an image",
        change=cases.archive("images/x.jpg"),
        command=PREDICT,
        file="x.jpg",
        says=("x.jpg: the file is not an image. Accepted formats",),
    ),
    Case(
        name="65 an archive in place of annotations",
        change=cases.archive("train.json"),
        says=("train.json: ",),
    ),
    Case(
        name="66 a class to measure that is not learned",
        change=lambda tree: (tree / "val.json").write_text(
            json.dumps(cases.coco("v.png", categories=[{"id": 1, "name": "cart"}]))
        ),
        says=("boxes of the classes cart", "'cart': Nearest: 'car'.", "Rename them"),
    ),
    Case(
        name="66 a class to measure that is not learned, beside one that is",
        change=lambda tree: (tree / "val.json").write_text(
            json.dumps(
                cases.coco("v.png", categories=[{"id": 1, "name": "bus"}, {"id": 2, "name": "no"}])
            )
        ),
        says=("boxes of the classes bus", "not among the 2 to learn", "Rename them"),
    ),
    Case(
        name="the faults of two sources",
        change=cases.all_of(cases.content("train.json", b"[]"), cases.content("val.json", b"{}")),
        says=("data.labeled: ", "train.json: found a list", "data.validation: ", "'images' is mis"),
    ),
]


SIZE = "<size><width>32</width><height>32</height></size>"
THING = (
    "<object><name>car</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax>"
    "</bndbox></object>"
)
BOMB = (
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
    "<annotation><object><name>&c;</name></object></annotation>"
)
OUTSIDE = (
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)

OTHER_FORMAT_CASES = [
    *[
        Case(
            name=f"63 a YOLO row {row}",
            change=cases.yolo(f"{row}\n0 0.5 0.5 0.25 0.25"),
            command=cases.EVALUATE_YOLO,
            code=0,
            says=("labels/a.txt:1: ", text, "AP50"),
        )
        for row, text in {
            "0 0.5 0.5 0.2": "4 columns; accepted are 5",
            "0 0.5 0.5 0.2 0.2 0.9": "6 columns; the last may be a confidence",
            "-1 0.5 0.5 0.2 0.2": "class '-1'; accepted are 0..1",
            "2 0.5 0.5 0.2 0.2": "class '2'; accepted are 0..1",
            "0 0,5 0.5 0.2 0.2": "'0,5' is no number",
        }.items()
    ],
    Case(
        name="53 pixels in YOLO rows",
        change=cases.yolo("0 16 16 8 8\n1 12 12 8 8"),
        command=cases.EVALUATE_YOLO,
        says=("these look like pixels", "labels/a.txt:1"),
    ),
    Case(
        name="58 an image without a YOLO file is unlabeled",
        change=cases.yolo("0 0.5 0.5 0.25 0.25"),
        command=cases.EVALUATE_YOLO,
        code=0,
        says=("1 images without a label file, which are unlabeled, not background: 'b.png'",),
    ),
    *[
        Case(
            name=f"64 {kind} in XML",
            change=cases.voc(text),
            command=cases.EVALUATE_VOC,
            says=("Annotations/a.xml", *says),
        )
        for kind, text, says in [
            ("entities that grow", BOMB, ("must have no entities",)),
            ("an entity of a file", OUTSIDE, ("must have no entities",)),
            ("no size", f"<annotation>{THING}</annotation>", ("'size' must have 'width'",)),
            ("a cut end", f"<annotation>{SIZE}{THING}", ("files must be XML; repair them",)),
        ]
    ],
]


@pytest.mark.parametrize(
    "case", [*ANNOTATION_CASES, *OTHER_FORMAT_CASES], ids=lambda case: case.name
)
def test_wrong_annotations_are_answered_by_name_and_left_as_they_are(case, tree, call):
    case.change(tree)
    before = cases.state(tree)

    code, printed = call(case.command, case.file)

    assert code == case.code, printed
    assert [text for text in case.says if text not in printed] == [], printed
    assert "Traceback" not in printed
    assert cases.state(tree) == before

"""What the outputs of ONNX detectors mean; every expected box is computed by hand or by a loop."""

import math

import pytest
import torch

from distildet.detectors.onnx_declaration import BoxesOutput, DetectionsOutput, GridOutput
from distildet.detectors.onnx_outputs import MAX_ROWS, Meaning
from distildet.errors import ConfigError


def read(output, num_classes=2, input_size=(32, 32), **arrays):
    """Return what a declaration makes of the outputs of one image."""
    meaning = Meaning(output=output, num_classes=num_classes, input_size=input_size)
    tensors = {name: torch.as_tensor(values) for name, values in arrays.items()}
    image = meaning.split({n: t[None] for n, t in tensors.items()}, 1)[0]
    return meaning.read(image)


def rows(found):
    """Return boxes, scores and labels as lists, numbers rounded to a thousandth."""
    return [
        (label, round(score, 3), [round(number, 3) for number in box])
        for label, score, box in zip(
            found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]


def decoded_by_a_loop(table, strides, size, floor):
    """Decode a grid as its description says, cell by cell."""
    found, row = [], 0
    for stride in strides:
        for y in range(size[0] // stride):
            for x in range(size[1] // stride):
                cx, cy, w, h, objectness, *classes = table[row]
                cx, cy = (cx + x) * stride, (cy + y) * stride
                w, h = math.exp(w) * stride, math.exp(h) * stride
                for label, prob in enumerate(classes):
                    if objectness * prob > floor:
                        box = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                        found.append((label, objectness * prob, box))
                row += 1
    return sorted(found, key=lambda one: -one[1])


def test_a_cell_of_a_grid_is_decoded_as_computed_by_hand():
    # 32x32 at stride 16: four cells, the last in column 1 of row 1.
    table = torch.zeros(4, 7)
    table[3] = torch.tensor([0.5, 0.25, 0.0, math.log(0.5), 0.8, 0.0, 0.5])

    found = read(GridOutput(name="out", strides=(16,)), out=table)

    # Centre (1.5 * 16, 1.25 * 16) = (24, 20), sides 16 and 8, score 0.8 * 0.5.
    assert rows(found) == [(1, 0.4, [16.0, 16.0, 32.0, 24.0])]


def test_grids_of_several_strides_are_decoded_as_by_a_loop():
    generator = torch.Generator().manual_seed(0)
    size, strides = (32, 64), (8, 16)
    # 4 * 8 + 2 * 4 cells, higher than wide first.
    table = torch.rand(40, 8, generator=generator, dtype=torch.float64)
    output = GridOutput(
        name="out", strides=strides, score_floor=0.2, nms_iou="off", max_detections=1000
    )

    found = read(output, num_classes=3, input_size=size, out=table.float())

    expected = decoded_by_a_loop(table.tolist(), strides, size, 0.2)
    assert len(found.labels) == len(expected) > 20
    assert found.labels.tolist() == [label for label, _, _ in expected]
    assert found.scores.tolist() == pytest.approx([score for _, score, _ in expected], abs=1e-6)
    assert found.boxes.flatten().tolist() == pytest.approx(
        [number for _, _, box in expected for number in box], abs=1e-4
    )


# One box: centre (10, 20), 8 wide, 4 high, of class 1; in an input of 32x32.
CORNERS = [6.0, 18.0, 14.0, 22.0]
LOGIT = math.log(0.6 / 0.4)
BOXES_CASES = {
    "xyxy": (
        BoxesOutput(name="out", format="xyxy", units="pixels", scores="probs"),
        {"out": [[*CORNERS, 0.1, 0.6]]},
    ),
    "xywh": (
        BoxesOutput(name="out", format="xywh", units="pixels", scores="probs"),
        {"out": [[6.0, 18.0, 8.0, 4.0, 0.1, 0.6]]},
    ),
    "as of YOLOv8: transposed, cxcywh": (
        BoxesOutput(name="out", format="cxcywh", units="pixels", scores="probs", transposed=True),
        {"out": [[10.0], [20.0], [8.0], [4.0], [0.1], [0.6]]},
    ),
    "as of YOLOv5: objectness": (
        BoxesOutput(
            name="out", format="cxcywh", units="pixels", scores="probs", has_objectness=True
        ),
        {"out": [[10.0, 20.0, 8.0, 4.0, 0.75, 0.1, 0.8]]},
    ),
    "shares": (
        BoxesOutput(name="out", format="cxcywh", units="shares", scores="probs"),
        {"out": [[10 / 32, 20 / 32, 8 / 32, 4 / 32, 0.1, 0.6]]},
    ),
    "logits": (
        BoxesOutput(name="out", format="xyxy", units="pixels", scores="logits"),
        {"out": [[*CORNERS, -9.0, LOGIT]]},
    ),
    "as of DETR: softmax, no-object last, apart from the boxes": (
        BoxesOutput(
            name="boxes",
            scores_name="logits",
            format="cxcywh",
            units="shares",
            scores="softmax-logits",
            background="last",
            score_floor=0.2,
        ),
        # softmax of log p is p.
        {
            "boxes": [[10 / 32, 20 / 32, 8 / 32, 4 / 32]],
            "logits": [[math.log(0.1), math.log(0.6), math.log(0.3)]],
        },
    ),
    "background first": (
        BoxesOutput(
            name="out",
            format="xyxy",
            units="pixels",
            scores="softmax-logits",
            background="first",
            score_floor=0.2,
        ),
        {"out": [[*CORNERS, math.log(0.3), math.log(0.1), math.log(0.6)]]},
    ),
}


@pytest.mark.parametrize(("output", "arrays"), BOXES_CASES.values(), ids=BOXES_CASES)
def test_one_box_is_read_from_every_kind_of_decoded_output(output, arrays):
    found = read(output, **arrays)

    # Classes at 0.1 or below are told as well unless the floor is above them.
    assert rows(found)[0] == (1, 0.6, CORNERS)


def test_objectness_multiplies_every_class():
    output = BoxesOutput(
        name="out", format="xyxy", units="pixels", scores="probs", has_objectness=True
    )

    found = read(output, out=[[*CORNERS, 0.5, 0.4, 0.8]])

    assert rows(found) == [(1, 0.4, CORNERS), (0, 0.2, CORNERS)]


NAMES = {"boxes": "boxes", "scores": "scores", "labels": "labels"}


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({}, 1),
        ({"label_offset": 1}, 2),
        ({"category_ids": (7, 90)}, 90),
    ],
)
def test_numbers_of_classes_become_labels(options, number):
    output = DetectionsOutput(format="xyxy", units="pixels", **NAMES, **options)

    found = read(output, boxes=[CORNERS], scores=[0.6], labels=[number])

    assert rows(found) == [(1, 0.6, CORNERS)]


def test_category_ids_of_coco_skip_the_numbers_that_it_skips():
    output = DetectionsOutput(format="xyxy", units="pixels", **NAMES, category_ids="coco")

    found = read(
        output, num_classes=80, boxes=[CORNERS, CORNERS], scores=[0.9, 0.6], labels=[1, 13]
    )

    # 12 was never given: stop sign, 13, is the twelfth class.
    assert found.labels.tolist() == [0, 11]


def test_rows_hold_box_score_and_label():
    output = DetectionsOutput(format="xyxy", units="pixels", rows="out")

    # The second row fills up a fixed number of rows.
    found = read(output, out=[[*CORNERS, 0.6, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, -1.0]])

    assert rows(found) == [(1, 0.6, CORNERS)]


def test_suppression_is_among_boxes_of_a_class():
    output = BoxesOutput(name="out", format="xyxy", units="pixels", scores="probs", nms_iou=0.5)
    near = [7.0, 18.0, 15.0, 22.0]  # 7/9 of the union is common

    found = read(output, out=[[*CORNERS, 0.0, 0.6], [*near, 0.0, 0.5], [*near, 0.7, 0.0]])

    assert rows(found) == [(0, 0.7, near), (1, 0.6, CORNERS)]


def test_suppression_can_be_off_and_the_best_are_kept():
    output = BoxesOutput(
        name="out",
        format="xyxy",
        units="pixels",
        scores="probs",
        nms_iou="off",
        max_detections=2,
    )

    found = read(output, out=[[*CORNERS, 0.0, 0.3], [*CORNERS, 0.0, 0.5], [*CORNERS, 0.0, 0.4]])

    assert found.scores.tolist() == pytest.approx([0.5, 0.4])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_told_whatever_their_score(value):
    boxes = BoxesOutput(name="out", format="xyxy", units="pixels", scores="probs")
    finished = DetectionsOutput(format="xyxy", units="pixels", **NAMES)

    assert not read(boxes, out=[[*CORNERS, 0.0, 0.6], [0.0, value, 1.0, 1.0, 0.0, 0.0]]).is_finite
    assert not read(boxes, out=[[*CORNERS, value, 0.6]]).is_finite
    assert not read(finished, boxes=[CORNERS], scores=[value], labels=[0]).is_finite
    assert not read(finished, boxes=[[value, 0.0, 1.0, 1.0]], scores=[0.9], labels=[0]).is_finite


DECODED = {"name": "out", "format": "xyxy", "units": "pixels", "scores": "probs"}
FAULTS = {
    "another number of classes": (
        BoxesOutput(**DECODED),
        {"out": [[0.0] * 24]},
        r"rows of 24 numbers, that is 4 numbers and 20 classes, but `classes` has 2 names, for "
        r"which 6 are due",
    ),
    "the other order of axes": (
        BoxesOutput(**DECODED),
        {"out": [[0.0] * 9] * 6},
        "Look at `classes`, the layout, has_objectness, background and at `transposed`",
    ),
    "a grid of other strides": (
        GridOutput(name="out", strides=(8,)),
        {"out": [[0.0] * 7] * 4},
        r"output\.strides: \[8\] give 16 rows for an input of 32x32 pixels, and the output has 4",
    ),
    "logits where probabilities are declared": (
        BoxesOutput(**DECODED),
        {"out": [[*CORNERS, 0.0, 7.3]]},
        r"output\.scores: found classes of up to 7\.3, which are no probabilities",
    ),
    "no column of objectness": (
        GridOutput(name="out", strides=(16,)),
        {"out": [[0.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0]] * 4},
        r"output\.scores: found objectness of up to 2",
    ),
    "shares where pixels are declared": (
        BoxesOutput(**DECODED, nms_iou="off"),
        {"out": [[0.1, 0.2, 0.3, 0.4, 0.0, 0.9]] * 3},
        r"output\.units: found 'pixels', but all boxes lie in 2 pixels, such as \[0\.1, 0\.2.*Set "
        "units to shares",
    ),
    "pixels where shares are declared": (
        BoxesOutput(**{**DECODED, "units": "shares"}),
        {"out": [[*CORNERS, 0.0, 0.9]] * 3},
        r"output\.units: found 'shares'.*Set units to pixels",
    ),
    "centres where corners are declared": (
        BoxesOutput(**DECODED),
        {"out": [[10.0, 20.0, 8.0, 4.0, 0.0, 0.9]] * 3},
        r"output\.format: found 'xyxy', but 3 of 3 boxes end before they begin.*another format",
    ),
    "labels that count from 1": (
        DetectionsOutput(format="xyxy", units="pixels", **NAMES),
        {"boxes": [CORNERS], "scores": [0.9], "labels": [2]},
        r"a detection has the label 2\. Accepted with label_offset 0: 0\.\.1\. Set label_offset",
    ),
    "an id that is not among the given": (
        DetectionsOutput(format="xyxy", units="pixels", **NAMES, category_ids=(1, 7)),
        {"boxes": [CORNERS], "scores": [0.9], "labels": [2]},
        r"the label 2\. Accepted with category_ids: 1, 7",
    ),
    "outputs of other images": (
        DetectionsOutput(format="xyxy", units="pixels", **NAMES),
        {"boxes": [CORNERS], "scores": [0.9, 0.8], "labels": [0, 0]},
        r"must be \[n 4\], \[n\] and \[n\]; found \[1, 4\], \[2\] and \[2\]",
    ),
    "scores in the place of boxes": (
        DetectionsOutput(format="xyxy", units="pixels", **NAMES),
        {"boxes": [[[0.9]]], "scores": [0.9], "labels": [0]},
        r"output\.boxes: the output 'boxes' has the shape \[1, 1, 1, 1\] for 1 images.*\[batch n",
    ),
    "rows of something else": (
        DetectionsOutput(format="xyxy", units="pixels", rows="out"),
        {"out": [[0.0] * 7]},
        r"output\.rows: found 7 columns\. Accepted: 6",
    ),
    "boxes apart from scores of other number": (
        BoxesOutput(**DECODED, scores_name="probs"),
        {"out": [CORNERS], "probs": [[0.1, 0.2]] * 3},
        r"output\.name: with scores_name the boxes must be \[n 4\].*found \[1, 4\] and \[3, 2\]",
    ),
}


@pytest.mark.parametrize(("output", "arrays", "says"), FAULTS.values(), ids=FAULTS)
def test_outputs_that_contradict_their_declaration_are_told(output, arrays, says):
    with pytest.raises(ConfigError, match=says):
        read(output, **arrays)


def test_more_boxes_than_any_image_has_are_refused():
    output = BoxesOutput(**DECODED)

    with pytest.raises(ConfigError, match=f"found {MAX_ROWS + 1} boxes of one image"):
        read(output, out=torch.zeros(1).expand(MAX_ROWS + 1, 6))


def test_category_ids_must_be_as_many_as_the_classes():
    output = DetectionsOutput(format="xyxy", units="pixels", **NAMES, category_ids=(1, 2, 3))

    with pytest.raises(ConfigError, match=r"output\.category_ids: found 3 numbers.*2 classes"):
        read(output, boxes=[CORNERS], scores=[0.9], labels=[1])

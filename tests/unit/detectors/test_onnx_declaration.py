import pytest

from distildet.detectors.onnx_declaration import (
    BoxesOutput,
    DetectionsOutput,
    GridOutput,
    OnnxInput,
)
from distildet.errors import ConfigError

SEEN = {"layout": "nchw", "colour": "rgb", "range": 1, "resize": "letterbox-centre", "pad": 114}
BOXES = {"format": "xyxy", "units": "pixels", "scores": "probs"}
FINISHED = {"format": "xyxy", "units": "pixels"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pad": None}, "pad is missing, which resize: letterbox-centre needs"),
        ({"resize": "stretch"}, "pad is 114, but with resize: stretch nothing is left free"),
        ({"pad": 256}, r"pad is 256\. Accepted: 0\.\.255, or zero"),
        ({"std": (0.0, 1.0, 1.0)}, r"std is \[0\.0, 1\.0, 1\.0\]\. Accepted: three numbers above"),
        ({"mean": (float("nan"), 0.0, 0.0)}, r"mean is \[nan, 0\.0, 0\.0\]\. Accepted: three fin"),
        ({"dtype": "uint8"}, "dtype is uint8, which holds 0..255 as they are"),
    ],
)
def test_inputs_without_a_meaning_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        OnnxInput(**{**SEEN, **changes})


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (GridOutput, {"strides": ()}, r"strides is \[\]\. Accepted: whole numbers of 1 or more"),
        (GridOutput, {"score_floor": 1.0}, r"score_floor is 1\.0\. Accepted: 0 to below 1"),
        (GridOutput, {"nms_iou": 0.0}, r"nms_iou is 0\.0\. Accepted: above 0 to 1, or off"),
        (GridOutput, {"max_detections": 0}, r"max_detections is 0\. Accepted: 1 or more"),
        (BoxesOutput, {**BOXES, "scores_name": "s"}, "name is missing, which scores_name 's' need"),
        (
            BoxesOutput,
            {**BOXES, "scores": "softmax-logits", "has_objectness": True},
            "has_objectness is true with scores: softmax-logits",
        ),
        (DetectionsOutput, FINISHED, "found none of them.*three outputs boxes, scores and labels"),
        (DetectionsOutput, {**FINISHED, "boxes": "b"}, "found boxes. Accepted: the names"),
        (
            DetectionsOutput,
            {**FINISHED, "rows": "r", "scores": "s"},
            "found scores, rows. Accepted: the names of the three",
        ),
        (
            DetectionsOutput,
            {**FINISHED, "rows": "r", "label_offset": 1, "category_ids": (1, 2)},
            "found label_offset 1 beside category_ids",
        ),
        (
            DetectionsOutput,
            {**FINISHED, "rows": "r", "category_ids": (1, 1)},
            r"category_ids is \[1, 1\]\. Accepted: numbers that differ",
        ),
    ],
)
def test_outputs_without_a_meaning_are_refused(kind, options, says):
    with pytest.raises(ConfigError, match=says):
        kind(**options)

"""Detectors in ONNX files; the models are made here, and return boxes that are known."""

import sys

import numpy as np
import pytest
import torch

from distildet.data.loader import collate
from distildet.data.transforms import fit_view
from distildet.detectors.onnx_declaration import BoxesOutput, DetectionsOutput, OnnxInput
from distildet.detectors.onnx_model import onnx_fingerprint
from distildet.detectors.onnx_runtime import OnnxDetector
from distildet.errors import ConfigError, MissingExtraError, MissingPartError, WeightsError
from distildet.structures import DETECTIONS

FINISHED = DetectionsOutput(
    format="xyxy", units="pixels", boxes="boxes", scores="scores", labels="labels", score_floor=0
)


def sees(**changes):
    """A declaration of what a model sees: RGB 0..1, letterboxed top left with black."""
    plain = {"layout": "nchw", "colour": "rgb", "range": 1, "resize": "letterbox-top-left"}
    pad = {} if changes.get("resize") == "stretch" else {"pad": 0}
    return OnnxInput(**{**plain, **pad, **changes})


@pytest.fixture
def one_box(write_onnx):
    """A model that finds one box, in pixels of its input, in every image."""

    def write(box, **options):
        found = {
            "boxes": np.array([box], dtype=np.float32),
            "scores": np.array([0.9], dtype=np.float32),
            "labels": np.array([0]),
        }
        return write_onnx(found, **options)

    return write


def photo(height, width):
    return torch.zeros(3, height, width, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("resize", "box"),
    [
        # 200x50 into 100x100: scale 0.5, so it fills 100x25; (20, 10) -> (10, 5).
        ("letterbox-top-left", [10, 5, 50, 20]),
        # 37 rows of padding above: (100 - 25) // 2.
        ("letterbox-centre", [10, 42, 50, 57]),
        # Half in x, twice in y.
        ("stretch", [10, 20, 50, 80]),
    ],
)
def test_boxes_of_an_elongated_image_come_back_exactly(one_box, resize, box):
    weights = one_box(box, shape=(1, 3, 100, 100))
    detector = OnnxDetector(
        weights, classes=["car"], image_size=100, input=sees(resize=resize), output=FINISHED
    )

    found = detector.predict([photo(50, 200)])[0]

    assert found.boxes.tolist() == [[20.0, 10.0, 100.0, 40.0]]
    assert found.scores.tolist() == [pytest.approx(0.9)]


def test_a_rectangular_input_is_filled_along_the_side_that_binds(one_box):
    # 60 high, 30 wide into 40x80: the height binds, scale 2/3, 20 wide, 30 columns left free.
    weights = one_box([40, 10, 45, 20], shape=(1, 3, 40, 80))
    detector = OnnxDetector(
        weights,
        classes=["car"],
        image_size=(40, 80),
        input=sees(resize="letterbox-centre"),
        output=FINISHED,
    )

    found = detector.predict([photo(60, 30)])[0]

    # x: (40 - 30) * 1.5 and (45 - 30) * 1.5; y: 10 * 1.5 and 20 * 1.5.
    assert found.boxes.tolist() == [[15.0, 15.0, 22.5, 30.0]]


def test_a_batch_of_another_size_gives_boxes_of_the_same_place(one_box):
    weights = one_box([10, 5, 50, 20], shape=(1, 3, 100, 100))
    detector = OnnxDetector(weights, classes=["car"], image_size=100, input=sees(), output=FINISHED)
    # As in training: the view is 64 pixels wide and is scaled again.
    batch = collate([fit_view(photo(50, 200), 64)], ["a"])

    found = detector(batch, want={DETECTIONS}).detections[0]

    assert torch.allclose(found.boxes, torch.tensor([[20.0, 10.0, 100.0, 40.0]]), atol=1e-4)


def test_what_lies_in_the_padding_is_cut_off(write_onnx):
    boxes = np.array([[10, 5, 120, 60], [10, 30, 50, 60]], dtype=np.float32)
    weights = write_onnx(
        {"boxes": boxes, "scores": np.array([0.5, 0.9], np.float32), "labels": np.array([0, 0])},
        shape=(1, 3, 100, 100),
    )
    detector = OnnxDetector(weights, classes=["car"], image_size=100, input=sees(), output=FINISHED)

    found = detector.predict([photo(50, 200)])[0]

    # The second box begins below the 25 rows of the image.
    assert found.boxes.tolist() == [[20.0, 10.0, 200.0, 50.0]]


# Places in a flat input of 4x4 pixels: channel * 16 + row * 4 + column.
RED, GREEN, BLUE, BELOW = 0, 16, 32, 12


@pytest.mark.parametrize(
    ("changes", "factor", "expected"),
    [
        # The image is (51, 102, 204), that is 0.2, 0.4, 0.8; 4 wide and 2 high, so padded below.
        ({}, 1, [0.2, 0.4, 0.8, 0.0]),
        ({"colour": "bgr"}, 1, [0.8, 0.4, 0.2, 0.0]),
        ({"range": 255, "pad": 114}, 1 / 255, [0.2, 0.4, 0.8, 114 / 255]),
        ({"pad": 51}, 1, [0.2, 0.4, 0.8, 0.2]),
        # (0.2 - 0.1) / 0.5, (0.4 - 0.2) / 1, (0.8 - 0.3) / 2; the padding (0.4 - 0.1) / 0.5.
        ({"mean": (0.1, 0.2, 0.3), "std": (0.5, 1, 2), "pad": 102}, 1, [0.2, 0.2, 0.25, 0.6]),
        ({"mean": (0.1, 0.2, 0.3), "std": (0.5, 1, 2), "pad": "zero"}, 1, [0.2, 0.2, 0.25, 0.0]),
        # Mean and std are in the order of the channels: (0.8 - 0.1) / 1.
        ({"colour": "bgr", "mean": (0.1, 0, 0)}, 1, [0.7, 0.4, 0.2, None]),
        ({"range": 255, "dtype": "uint8", "pad": 114}, 1 / 255, [0.2, 0.4, 0.8, 114 / 255]),
        ({"dtype": "float16"}, 1, [0.2, 0.4, 0.8, 0.0]),
    ],
)
def test_a_model_sees_what_is_declared(write_onnx, changes, factor, expected):
    known = [value is not None for value in expected]
    places = np.array([RED, GREEN, BLUE, BELOW])[known].tolist()
    boxes = np.array([[i, 0, i + 1, 1] for i in range(len(places))], dtype=np.float32)
    weights = write_onnx(
        {"boxes": boxes, "labels": np.arange(len(places))},
        probes={"scores": (places, factor)},
        shape=(1, 3, 4, 4),
        dtype=changes.get("dtype", "float32"),
    )
    detector = OnnxDetector(
        weights,
        classes=["red", "green", "blue", "below"][: len(places)],
        image_size=4,
        input=sees(**changes),
        output=FINISHED,
    )
    image = torch.tensor([51, 102, 204], dtype=torch.uint8)[:, None, None].expand(3, 2, 4)

    found = detector.predict([image])[0]

    seen = dict(zip(found.labels.tolist(), found.scores.tolist(), strict=True))
    wanted = {i: v for i, v in enumerate(expected) if v}
    assert seen == {label: pytest.approx(value, abs=1e-3) for label, value in wanted.items()}


@pytest.mark.parametrize(
    ("layout", "shape", "places"),
    [
        ("nhwc", (1, 2, 4, 3), [0, 1, 2]),
        ("chw", (3, 2, 4), [0, 8, 16]),
        ("hwc", (2, 4, 3), [0, 1, 2]),
    ],
)
def test_every_order_of_axes_is_met(write_onnx, layout, shape, places):
    boxes = np.array([[i, 0, i + 1, 1] for i in range(3)], dtype=np.float32)
    weights = write_onnx(
        {"boxes": boxes, "labels": np.arange(3)}, probes={"scores": (places, 1)}, shape=shape
    )
    detector = OnnxDetector(
        weights,
        classes=["red", "green", "blue"],
        image_size=(2, 4),
        input=sees(layout=layout),
        output=FINISHED,
    )
    image = torch.tensor([51, 102, 204], dtype=torch.uint8)[:, None, None].expand(3, 2, 4)

    first, second = detector.predict([image, image // 2])

    # Best score first: blue, green, red.
    assert first.labels.tolist() == [2, 1, 0]
    assert first.scores.tolist() == pytest.approx([0.8, 0.4, 0.2])
    assert second.scores.tolist() == pytest.approx([0.4, 0.2, 25 / 255], abs=1e-6)


@pytest.mark.parametrize("batch", ["n", 1, 2, 4])
def test_images_are_answered_alike_in_any_batch(write_onnx, batch):
    weights = write_onnx(
        {"boxes": np.array([[0, 0, 8, 8]], np.float32), "labels": np.array([0])},
        probes={"scores": ([0], 1)},
        shape=(batch, 3, 8, 8),
    )
    detector = OnnxDetector(weights, classes=["car"], image_size=8, input=sees(), output=FINISHED)
    images = [torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (51, 102, 153)]

    scores = [found.scores.tolist() for found in detector.predict(images)]

    assert scores == [[pytest.approx(0.2)], [pytest.approx(0.4)], [pytest.approx(0.6)]]


def test_a_second_input_is_given_width_and_height(write_onnx):
    weights = write_onnx(
        {"boxes": np.array([[0, 0, 4, 4]], np.float32), "labels": np.array([0])},
        probes={"scores": ([0], 1)},
        extra=("orig_target_sizes",),
        shape=("n", 3, 8, 8),
    )
    detector = OnnxDetector(
        weights,
        classes=["car"],
        image_size=8,
        input=sees(name="images", sizes="orig_target_sizes"),
        output=FINISHED,
    )

    found = detector.predict([torch.full((3, 8, 8), 51, dtype=torch.uint8)])[0]

    assert found.scores.tolist() == [pytest.approx(0.2)]


def test_an_image_for_which_numbers_are_not_finite_is_told_apart(write_onnx):
    weights = write_onnx(
        {"boxes": np.array([[0, 0, 4, 4]], np.float32), "labels": np.array([0])},
        probes={"scores": ([0], 3e38)},
        shape=("n", 3, 8, 8),
    )
    # White is (1 - 0.5) / 0.1 * 3e38, beyond float32; dark grey is a little below 0.
    seen = sees(mean=(0.5, 0, 0), std=(0.1, 1, 1))
    detector = OnnxDetector(weights, classes=["car"], image_size=8, input=seen, output=FINISHED)
    values = (255, 126)
    views = [fit_view(torch.full((3, 8, 8), value, dtype=torch.uint8), 8) for value in values]

    white, grey = detector(collate(views, ["w", "g"]), want={DETECTIONS}).detections

    assert (white.is_finite, len(white)) == (False, 0)
    assert (grey.is_finite, len(grey)) == (True, 0)


def test_a_detector_of_boxes_says_so(one_box):
    detector = OnnxDetector(
        one_box([0, 0, 8, 8]), classes=["car"], image_size=32, input=sees(), output=FINISHED
    )

    assert detector.spec.parts == {DETECTIONS}
    assert detector.spec.head == "none"
    assert detector.spec.levels == ()
    assert detector.backbone_parameters() == []
    assert detector.class_layers() == ()
    batch = collate([fit_view(photo(8, 8), 32)], ["a"])
    assert detector(batch, want=()).detections is None
    with pytest.raises(MissingPartError, match="'onnx' cannot return dense"):
        detector(batch, want={"dense"})


def test_the_fingerprint_follows_the_file_and_the_declaration(one_box):
    def make(weights, **changes):
        return OnnxDetector(
            weights,
            classes=changes.pop("classes", ["car"]),
            image_size=32,
            input=sees(**changes),
            output=FINISHED,
        ).fingerprint

    first = one_box([0, 0, 8, 8], name="first.onnx")
    plain = make(first)

    assert make(one_box([0, 0, 8, 8], name="same.onnx")) == plain
    assert make(one_box([0, 0, 9, 9], name="other.onnx")) != plain
    assert make(first, colour="bgr") != plain
    assert make(first, classes=["bus"]) != plain


def move_boxes(model_path, place):
    """Move the boxes of a model into the file weights.bin beside it, and name a place for it."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(model_path)
    [boxes] = [tensor for tensor in model.graph.initializer if tensor.name == "boxes_values"]
    model_path.with_name("weights.bin").write_bytes(boxes.raw_data)
    onnx.external_data_helper.set_external_data(boxes, place)
    boxes.ClearField("raw_data")
    model_path.write_bytes(model.SerializeToString())


def test_the_fingerprint_follows_weights_in_a_file_of_any_name(one_box):
    def make():
        return OnnxDetector(
            weights, classes=["car"], image_size=32, input=sees(), output=FINISHED
        ).fingerprint

    weights = one_box([0, 0, 8, 8])
    move_boxes(weights, "weights.bin")
    beside = weights.with_name("weights.bin")
    before, content = make(), bytearray(beside.read_bytes())
    # The sides of the box are 8.0, in little-endian 00 00 00 41; 9.0 is 00 00 10 41.
    place = content.index(np.float32(8).tobytes())
    content[place : place + 4] = np.float32(9).tobytes()

    beside.write_bytes(content)

    assert make() != before
    # What the model does not name has no part in it.
    changed = make()
    weights.with_name("model.onnx.data").write_bytes(b"weights")
    assert make() == changed


@pytest.mark.parametrize("place", ["../weights.bin", "/weights.bin"])
def test_weights_outside_of_the_folder_are_refused(one_box, place):
    weights = one_box([0, 0, 8, 8])
    move_boxes(weights, place)

    with pytest.raises(WeightsError, match=r"has weights in '.*weights\.bin', outside its folder"):
        onnx_fingerprint(weights)


def test_a_model_of_another_format_is_refused(tmp_path):
    # Field 1 of a message, cut off.
    (tmp_path / "model.ort").write_bytes(b"\x0a\xff")

    with pytest.raises(WeightsError, match=r"model\.ort: a model of another format than ONNX"):
        onnx_fingerprint(tmp_path / "model.ort")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"model\.onnx: the file is empty"),
        (b"<!DOCTYPE html><html>", r"model\.onnx: the file is an HTML page, not an ONNX model"),
        (b"version https://git-lfs.github.com/spec/v1", r"is a Git LFS pointer.*git lfs pull"),
        (b"no model at all", r"ONNX Runtime .* cannot open it .*cut off or damaged"),
    ],
)
def test_files_that_are_no_model_are_told(tmp_path, content, says):
    (tmp_path / "model.onnx").write_bytes(content)

    with pytest.raises(WeightsError, match=says):
        OnnxDetector(
            tmp_path / "model.onnx", classes=["a"], image_size=8, input=sees(), output=FINISHED
        )


def test_a_model_that_is_cut_off_is_told(one_box):
    weights = one_box([0, 0, 8, 8])
    weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(WeightsError, match="cannot open it"):
        OnnxDetector(weights, classes=["a"], image_size=32, input=sees(), output=FINISHED)


def test_a_model_that_is_not_there_is_told(tmp_path):
    with pytest.raises(WeightsError, match=r"none\.onnx: the model cannot be read \(No such file"):
        OnnxDetector(
            tmp_path / "none.onnx", classes=["a"], image_size=8, input=sees(), output=FINISHED
        )


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_runtime_the_extra_is_named(one_box, monkeypatch, package):
    weights = one_box([0, 0, 8, 8])
    monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(MissingExtraError, match=r'Run: pip install "distildet\[onnx\]"'):
        OnnxDetector(weights, classes=["a"], image_size=32, input=sees(), output=FINISHED)


@pytest.mark.parametrize(
    ("changes", "size", "says"),
    [
        ({"name": "image"}, 32, r"input\.name: the model has no input 'image'.*mean 'images'"),
        ({"sizes": "sizes"}, 32, r"input\.sizes: the model has no input 'sizes'"),
        ({"dtype": "float16"}, 32, r"input\.dtype: found 'float16'.*Accepted here: float32"),
        ({}, 64, r"has the shape \[1 3 32 32\].*ask for \[n 3 64 64\]"),
        ({"layout": "nhwc"}, 32, r"has the shape \[1 3 32 32\].*ask for \[n 32 32 3\]"),
        ({"layout": "chw"}, 32, r"layout chw and image_size \[32, 32\].*ask for \[3 32 32\]"),
    ],
)
def test_inputs_that_are_declared_otherwise_are_told(one_box, changes, size, says):
    weights = one_box([0, 0, 8, 8])

    with pytest.raises(ConfigError, match=rf"model\.onnx: .*{says}"):
        OnnxDetector(
            weights, classes=["a"], image_size=size, input=sees(**changes), output=FINISHED
        )


def test_an_input_that_nothing_is_known_of_is_told(one_box):
    weights = one_box([0, 0, 8, 8], extra=("im_shape",))

    with pytest.raises(ConfigError, match="has other inputs beside 'images': im_shape"):
        OnnxDetector(
            weights, classes=["a"], image_size=32, input=sees(name="images"), output=FINISHED
        )
    with pytest.raises(ConfigError, match=r"input\.name: missing\. Accepted: im_shape, images"):
        OnnxDetector(weights, classes=["a"], image_size=32, input=sees(), output=FINISHED)


def test_an_output_that_is_not_there_is_told(one_box):
    output = DetectionsOutput(
        format="xyxy", units="pixels", boxes="box", scores="scores", labels="labels"
    )

    with pytest.raises(ConfigError, match=r"output\.boxes: the model has no output 'box'"):
        OnnxDetector(
            one_box([0, 0, 8, 8]), classes=["a"], image_size=32, input=sees(), output=output
        )


def test_one_of_several_outputs_must_be_named(one_box):
    output = BoxesOutput(format="xyxy", units="pixels", scores="probs")

    with pytest.raises(ConfigError, match=r"output\.name: missing\. Accepted: boxes, labels, scor"):
        OnnxDetector(
            one_box([0, 0, 8, 8]), classes=["a"], image_size=32, input=sees(), output=output
        )


def test_numbers_that_are_not_finite_are_told_before_any_work(one_box):
    weights = one_box([0, 0, np.nan, 8])

    with pytest.raises(WeightsError, match="numbers that are not finite for a grey image"):
        OnnxDetector(weights, classes=["a"], image_size=32, input=sees(), output=FINISHED)


@pytest.fixture
def write_graph(tmp_path):
    """Give a function that writes a model of any nodes from `images` [n 3 8 8] to `out`."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def write(nodes, **constants):
        graph = helper.make_graph(
            [helper.make_node(kind, inputs, outputs) for kind, inputs, outputs in nodes],
            "graph",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, tmp_path / "graph.onnx")
        return tmp_path / "graph.onnx"

    return write


ROWS = BoxesOutput(format="xyxy", units="pixels", scores="probs")


def test_a_model_that_takes_single_images_alone_is_told_and_can_be_declared(write_graph):
    # 192 numbers are 32 rows of 6; two images do not fit into the shape.
    weights = write_graph([("Reshape", ["images", "shape"], ["out"])], shape=[1, 32, 6])
    options = {"classes": ["a", "b"], "image_size": 8, "output": ROWS}

    with pytest.raises(
        WeightsError, match=r"the model fails on images \[2, 3, 8, 8\].*one_at_a_tim"
    ):
        OnnxDetector(weights, **options, input=sees())
    # Grey, with which it is tried, becomes 0, so that all scores are 0.
    alone = sees(one_at_a_time=True, mean=(0.5, 0.5, 0.5))
    detector = OnnxDetector(weights, **options, input=alone)

    assert len(detector.predict([photo(8, 8), photo(8, 8)])) == 2


def test_a_lack_of_memory_is_no_fault_of_the_model(write_graph):
    # 2^44 zeros.
    weights = write_graph([("ConstantOfShape", ["shape"], ["out"])], shape=[1, 2**40, 16])

    with pytest.raises(MemoryError, match="Failed to allocate memory"):
        OnnxDetector(weights, classes=["a"], image_size=8, input=sees(), output=ROWS)


def test_boxes_of_several_images_in_one_list_must_be_asked_for_one_by_one(one_box, write_onnx):
    found = {"boxes": np.zeros((1, 4), np.float32), "labels": np.array([0])}
    one = write_onnx(found, probes={"scores": ([0], 1)}, shape=(3, 8, 8))
    model = pytest.importorskip("onnx").load(one)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    axes = [(side.dim_value, side.dim_param) for side in dimensions]
    first = dimensions.add()
    first.CopyFrom(dimensions[2])
    dimensions[0].Clear()
    dimensions[0].dim_param = "n"
    dimensions[1].dim_value = 3
    pytest.importorskip("onnx").save(model, one)

    assert axes == [(3, ""), (8, ""), (8, "")]
    with pytest.raises(
        ConfigError, match=r"input\.one_at_a_time: the model takes any number of im"
    ):
        OnnxDetector(one, classes=["a"], image_size=8, input=sees(), output=FINISHED)

"""Teachers that give boxes alone, through the command line."""

import json

import numpy as np
import pytest
from PIL import Image

from distildet.data.synthetic import ANNOTATIONS_FILE, make_scenes

DECLARED = """
detector: onnx
weights: model.onnx
classes: [auto, no]
image_size: 64
input: {layout: nchw, colour: rgb, range: 1, resize: letterbox-centre, pad: 114}
output:
  {layout: detections, boxes: boxes, scores: scores, labels: labels, format: xyxy, units: pixels}
"""


@pytest.fixture
def work(write_onnx, tmp_path):
    """A model that finds one box, the brighter the surer, and images of 32x64 and 64x32 pixels."""
    write_onnx(
        # In 64x64: an image that is wide has its rows from 16 to 48.
        {"boxes": np.array([[16, 20, 32, 40]], np.float32), "labels": np.array([0])},
        # The middle of the first channel.
        probes={"scores": ([32 * 64 + 32], 1)},
        shape=("n", 3, 64, 64),
    )
    (tmp_path / "model.yaml").write_text(DECLARED)
    images = tmp_path / "images"
    (images / "sub").mkdir(parents=True)
    for name, size, value in (
        ("a.png", (64, 32), 76),
        ("b.png", (128, 64), 204),
        ("sub/c.png", (64, 32), 0),
    ):
        Image.new("RGB", size, (value, value, value)).save(images / name)
    return tmp_path


def test_an_onnx_teacher_labels_a_folder_and_goes_on_to_the_same_bytes(work, distildet):
    command = ("label", "model.yaml", "images", "--out", "out", "--device", "cpu")

    done = distildet(*command, "--workers", "0")

    assert done.returncode == 0, done.stderr
    assert "1 boxes (score 0.4 and above) on 1 of 3 images" in done.stdout
    document = json.loads((work / "out" / "labels.json").read_text())
    assert [c["name"] for c in document["categories"]] == ["auto", "no"]
    # b.png is 128x64: (16, 20 - 16) * 2 to (32, 40 - 16) * 2; its score is 204 / 255.
    [found] = document["annotations"]
    assert document["images"][found["image_id"] - 1]["file_name"] == "b.png"
    assert found["bbox"] == pytest.approx([32, 8, 32, 40])
    assert found["score"] == pytest.approx(0.8)
    shard = work / "out" / "store" / "shards" / "shard-00000.parquet"
    before = shard.read_bytes()
    # As a kill before the first shard leaves it.
    shard.unlink()
    assert distildet(*command, "--workers", "0").returncode == 0
    assert shard.read_bytes() == before


def test_labels_of_another_declaration_are_never_mixed(work, distildet):
    command = ("label", "model.yaml", "images", "--out", "out", "--device", "cpu")
    assert distildet(*command).returncode == 0
    (work / "model.yaml").write_text(DECLARED.replace("rgb", "bgr"))

    done = distildet(*command)

    assert done.returncode == 2
    assert "holds labels of another teacher" in done.stderr


def test_what_is_labeled_teaches_from_its_file(work, distildet):
    label = ("label", "model.yaml", "images", "--out", "out", "--threshold", "0.2")
    assert distildet(*label, "--device", "cpu").returncode == 0
    (work / "boxes.yaml").write_text("{detector: results, file: out/labels.json}")
    Image.new("RGB", (64, 32)).save(work / "images" / "new.png")

    again = distildet(
        *("label", "boxes.yaml", "images", "--out", "again", "--threshold", "0.2"),
        *("--max-bad-fraction", "0.5", "--device", "cpu"),
    )

    assert again.returncode == 0, again.stderr
    first = json.loads((work / "out" / "labels.json").read_text())["annotations"]
    second = json.loads((work / "again" / "labels.json").read_text())["annotations"]
    assert [a["bbox"] for a in second] == [a["bbox"] for a in first] != []
    # Nothing was found in sub/c.png; new.png was never looked at.
    [bad] = map(json.loads, (work / "again" / "quarantine.jsonl").read_text().splitlines())
    assert (bad["file"], bad["stage"]) == ("new.png", "teacher")
    assert "not processed" in bad["error"]


def test_an_image_that_the_file_does_not_list_ends_predict_and_evaluate(work, distildet):
    label = ("label", "model.yaml", "images", "--out", "out", "--device", "cpu")
    assert distildet(*label).returncode == 0
    (work / "boxes.yaml").write_text("{detector: results, file: out/labels.json}")
    Image.new("RGB", (64, 32)).save(work / "images" / "new.png")
    record = {"id": 1, "file_name": "new.png", "width": 64, "height": 32}
    truth = {"images": [record], "annotations": [], "categories": [{"id": 1, "name": "auto"}]}
    (work / "truth.json").write_text(json.dumps(truth))

    shown = distildet("predict", "boxes.yaml", "images", "--device", "cpu")
    measured = distildet(
        *("evaluate", "boxes.yaml", "--images", "images", "--annotations", "truth.json"),
        *("--device", "cpu"),
    )

    assert (shown.returncode, measured.returncode) == (2, 2)
    assert "1 images were left out:\nnew.png: not processed:" in shown.stderr
    assert set(json.loads(shown.stdout)) == {"a.png", "b.png", "sub/c.png"}
    assert "new.png: not processed:" in measured.stderr


@pytest.mark.parametrize(
    ("mapped", "code", "says"),
    [("", 2, "have boxes of the classes car"), ("class_map: {auto: car, no: drop}", 0, "AP50")],
)
def test_evaluate_takes_the_class_map_of_a_declaration(work, distildet, mapped, code, says):
    (work / "model.yaml").write_text(DECLARED + mapped)
    truth = {
        "images": [{"id": 1, "file_name": "b.png", "width": 128, "height": 64}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [32, 8, 32, 40]}],
        "categories": [{"id": 1, "name": "car"}],
    }
    (work / "truth.json").write_text(json.dumps(truth))

    done = distildet(
        *("evaluate", "model.yaml", "--images", "images", "--annotations", "truth.json"),
        *("--device", "cpu"),
    )

    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr


def test_a_model_file_alone_is_told_how_to_be_declared(work, distildet):
    done = distildet("predict", "model.onnx", "images", "--device", "cpu")

    assert done.returncode == 2
    assert "model.onnx: not a detector bundle" in done.stderr
    assert (
        "write {detector: onnx, weights: FILE, classes, image_size, input, output}" in done.stderr
    )


RECIPE = f"""
name: black
data:
  image_size: 64
  workers: 0
  labeled: {{format: coco, images: scenes, annotations: scenes/{ANNOTATIONS_FILE}, fraction: 0.5}}
  unlabeled: [labeled-rest]
  validation: {{format: coco, images: held, annotations: held/{ANNOTATIONS_FILE}}}
teachers:
  - detector: onnx
    weights: model.onnx
    classes: [round]
    image_size: 64
    input: {{layout: nchw, colour: rgb, range: 1, resize: letterbox-centre, pad: 114}}
    output:
      layout: detections
      boxes: boxes
      scores: scores
      labels: labels
      format: xyxy
      units: pixels
      score_floor: 0
    class_map: {{round: circle}}
    unknown_classes: [ellipse, square, triangle, pentagon]
student:
  detector: retinanet
  backbone: test_efficientnet
  pretrained: false
  backbone_levels: [C3, C4]
  extra_levels: 0
  neck_channels: 8
stages:
  - {{stage: label, images: all, threshold: 0.01, ignore_floor: 0.01, keep_empty: 1}}
  - stage: train
    images: {{labeled: 1, unlabeled: 1}}
    steps: 2
    batch_size: 4
    optimizer: {{lr: 1e-3}}
"""


@pytest.fixture
def run(work, distildet):
    """Give a function that runs the recipe and returns its teacher and what was printed."""
    make_scenes(work / "scenes", images=8, size=64, seed=0)
    make_scenes(work / "held", images=4, size=64, seed=1)
    (work / "recipe.yaml").write_text(RECIPE)

    def call(*options):
        done = distildet("run", "recipe.yaml", "--out", "run", "--device", "cpu", *options)
        assert done.returncode == 0, done.stderr
        result = json.loads((work / "run" / "result.json").read_text())
        return result["models"]["teacher"], done.stdout

    return call


@pytest.mark.slow
def test_an_onnx_teacher_teaches_a_run(run):
    teacher, printed = run()

    assert (teacher["parameters"], teacher["gflops"]) == (None, None)
    assert teacher["latency_ms"] > 0
    assert teacher["metrics"]["AP"] is not None
    assert "circle    <-  round" in printed


@pytest.mark.slow
def test_a_file_of_boxes_teaches_a_run_and_has_no_cost(work, run):
    names = [
        f"{folder}/{image['file_name']}"
        for folder in ("scenes", "held")
        for image in json.loads((work / folder / ANNOTATIONS_FILE).read_text())["images"]
    ]
    document = {
        "images": [
            {"id": i, "file_name": name, "width": 64, "height": 64} for i, name in enumerate(names)
        ],
        "annotations": [
            {"image_id": i, "category_id": 1, "bbox": [8, 8, 20, 20], "score": 0.9}
            for i in range(len(names))
        ],
        "categories": [{"id": 1, "name": "round"}],
    }
    (work / "boxes.json").write_text(json.dumps(document))
    results = (
        "{detector: results, file: boxes.json, class_map: {round: circle}, "
        "unknown_classes: [ellipse, square, triangle, pentagon]}"
    )

    teacher, printed = run("--set", f"teachers=[{results}]")

    cost = ("parameters", "gflops", "latency_ms", "latency_device")
    assert [teacher[key] for key in cost] == [None] * 4
    assert teacher["metrics"]["AP"] is not None
    assert "Pseudo labels: 8 boxes on 8 of 8 images" in printed

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO

from distildet.classes import ClassList
from distildet.data.coco import read_coco
from distildet.pseudolabels.export_coco import write_coco

CLASSES = ClassList(("cat", "dog"))
SIDES = st.floats(0, 4096, width=32)


@pytest.fixture
def written(tmp_path, labels_of) -> Path:
    path = tmp_path / "labels.json"
    stored = {
        "sub/ä.jpg": labels_of([(1, 2, 4, 8), (0, 0, 5, 5)], [0.75, 0.25], [1, 0]),
        "empty.jpg": labels_of(size=(7, 9)),
        "c.jpg": labels_of([(0, 0, 2, 2)], [0.5], [0]),
    }
    write_coco(path, stored, CLASSES)
    return path


def test_document_by_hand(written):
    assert json.loads(written.read_text()) == {
        "images": [
            {"id": 1, "file_name": "sub/ä.jpg", "width": 64, "height": 48},
            {"id": 2, "file_name": "empty.jpg", "width": 9, "height": 7},
            {"id": 3, "file_name": "c.jpg", "width": 64, "height": 48},
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2,
                "bbox": [1, 2, 3, 6],
                "area": 18,
                "iscrowd": 0,
                "score": 0.75,
            },
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 5, 5],
                "area": 25,
                "iscrowd": 0,
                "score": 0.25,
            },
            {
                "id": 3,
                "image_id": 3,
                "category_id": 1,
                "bbox": [0, 0, 2, 2],
                "area": 4,
                "iscrowd": 0,
                "score": 0.5,
            },
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_every_record_has_its_own_line(written):
    assert len([line for line in written.read_text().splitlines() if '"id"' in line]) == 3 + 3 + 2


@pytest.mark.parametrize(
    ("thresholds", "scores"),
    [
        ({"cat": 0.0, "dog": 0.0}, [0.9, 0.7, 0.3]),
        ({"cat": 0.5, "dog": 0.5}, [0.9, 0.7]),
        ({"cat": 0.95, "dog": 0.7}, [0.7]),
        # 0.7 in float32 is below 0.7 in float64; the score still is what the threshold says.
        ({"cat": 0.7, "dog": 0.7}, [0.9, 0.7]),
        ({"cat": 1.0, "dog": 1.0}, []),
    ],
)
def test_each_class_has_its_own_threshold(thresholds, scores, tmp_path, labels_of):
    stored = {"a.jpg": labels_of(scores=[0.9, 0.7, 0.3], labels=[0, 1, 0])}

    write_coco(tmp_path / "labels.json", stored, CLASSES, thresholds=thresholds)

    annotations = json.loads((tmp_path / "labels.json").read_text())["annotations"]
    assert [one["score"] for one in annotations] == pytest.approx(scores)
    assert [one["id"] for one in annotations] == list(range(1, len(scores) + 1))


def test_no_labels_give_a_document_all_the_same(tmp_path):
    write_coco(tmp_path / "labels.json", {}, CLASSES)

    document = json.loads((tmp_path / "labels.json").read_text())
    assert (document["images"], document["annotations"]) == ([], [])


def test_pycocotools_reads_the_file_and_takes_it_as_results(written, capsys):
    truth = COCO(str(written))

    results = truth.loadRes(truth.dataset["annotations"])

    assert truth.getImgIds() == [1, 2, 3]
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == ["cat", "dog"]
    assert [one["bbox"] for one in truth.loadAnns(truth.getAnnIds(imgIds=[1]))] == [
        [1, 2, 3, 6],
        [0, 0, 5, 5],
    ]
    assert [one["score"] for one in results.loadAnns(results.getAnnIds())] == [0.75, 0.25, 0.5]


@settings(max_examples=30)  # each is flushed to the disk
@given(box=st.tuples(SIDES, SIDES, SIDES, SIDES), score=st.floats(0, 1, width=32))
def test_boxes_come_back_from_xywh(box, score, tmp_path_factory, labels_of):
    path = tmp_path_factory.mktemp("coco") / "labels.json"
    stored = {"a.jpg": labels_of([box], [score])}

    write_coco(path, stored, CLASSES)

    (one,) = json.loads(path.read_text())["annotations"]
    x, y, width, height = one["bbox"]
    assert np.allclose([x, y, x + width, y + height], box, rtol=0, atol=1e-4)
    assert one["score"] == score


def test_export_can_be_read_as_a_labeled_data_set(tmp_path, labels_of):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    stored = {"a.png": labels_of([(1.5, 2.25, 40, 30)], [0.9], [1])}
    write_coco(tmp_path / "labels.json", stored, CLASSES)

    (sample,) = read_coco(tmp_path, tmp_path / "labels.json", strict=True).samples

    assert sample.id == "a.png"
    assert sample.annotations.boxes.tolist() == [[1.5, 2.25, 40, 30]]
    assert sample.annotations.labels.tolist() == [1]


def test_name_that_is_not_utf8_comes_back(tmp_path, labels_of):
    write_coco(tmp_path / "labels.json", {"\udcff.jpg": labels_of()}, CLASSES)

    (image,) = json.loads((tmp_path / "labels.json").read_text())["images"]
    assert image["file_name"] == "\udcff.jpg"

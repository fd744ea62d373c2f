import json

import pytest
from pycocotools.coco import COCO

from distildet.classes import ClassList
from distildet.data.write_coco import coco_document, write_coco

CLASSES = ClassList(("cat", "dog"))


@pytest.fixture
def records(record_of):
    return [
        record_of("sub/ä.jpg", [(1, 2, 4, 8), (0, 0, 5, 5)], [1, 0], scores=[0.75, 0.25]),
        record_of("empty.jpg", size=(7, 9)),
        record_of("c.jpg", [(0, 0, 2, 2)], crowd=[True], areas=[3.5]),
    ]


def test_document_by_hand(records):
    assert json.loads(coco_document(records, CLASSES)) == {
        "images": [
            {"id": 1, "file_name": "sub/ä.jpg", "width": 20, "height": 10},
            {"id": 2, "file_name": "empty.jpg", "width": 9, "height": 7},
            {"id": 3, "file_name": "c.jpg", "width": 20, "height": 10},
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
                "area": 3.5,
                "iscrowd": 1,
            },
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def test_every_record_has_its_own_line(records):
    lines = coco_document(records, CLASSES).splitlines()

    assert len([line for line in lines if b'"id"' in line]) == 3 + 3 + 2


def test_no_images_give_a_document_all_the_same():
    document = json.loads(coco_document([], CLASSES))

    assert (document["images"], document["annotations"]) == ([], [])


def test_a_name_that_is_not_utf8_comes_back(record_of):
    (image,) = json.loads(coco_document([record_of("\udcff.jpg")], CLASSES))["images"]

    assert image["file_name"] == "\udcff.jpg"


def test_pycocotools_reads_the_file_and_takes_it_as_results(records, tmp_path, capsys):
    assert write_coco(tmp_path / "out", records[:2], CLASSES) == ()

    truth = COCO(str(tmp_path / "out" / "labels.json"))
    results = truth.loadRes(truth.dataset["annotations"])

    assert truth.getImgIds() == [1, 2]
    assert [c["name"] for c in truth.loadCats(truth.getCatIds())] == ["cat", "dog"]
    assert [one["bbox"] for one in truth.loadAnns(truth.getAnnIds(imgIds=[1]))] == [
        [1, 2, 3, 6],
        [0, 0, 5, 5],
    ]
    assert [one["score"] for one in results.loadAnns(results.getAnnIds())] == [0.75, 0.25]

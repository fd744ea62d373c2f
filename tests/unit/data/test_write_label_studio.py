import json

import pytest
from defusedxml.ElementTree import fromstring

from distildet.classes import ClassList
from distildet.data.write_label_studio import LabelStudioOptions, write_label_studio
from distildet.errors import ConfigError, DataError

CLASSES = ClassList(("cat", "dog"))


@pytest.fixture
def write(tmp_path):
    """Give a function that writes records and returns the tasks."""

    def write_and_read(*records, classes=CLASSES, **options):
        write_label_studio(
            tmp_path / "out", records, classes, options=LabelStudioOptions(**options)
        )
        return json.loads((tmp_path / "out" / "tasks.json").read_bytes())

    return write_and_read


def test_a_task_by_hand(write, record_of):
    # 20 wide and 10 high.
    record = record_of("sub/a b.jpg", [(1, 2, 4, 7)], [1], scores=[0.75])

    assert write(record, model_version="m-1") == [
        {
            "data": {"image": "/data/local-files/?d=sub/a%20b.jpg"},
            "predictions": [
                {
                    "model_version": "m-1",
                    "score": 0.75,
                    "result": [
                        {
                            "id": "1-1",
                            "type": "rectanglelabels",
                            "from_name": "label",
                            "to_name": "image",
                            "original_width": 20,
                            "original_height": 10,
                            "image_rotation": 0,
                            "value": {
                                "x": 5,
                                "y": 20,
                                "width": 15,
                                "height": 50,
                                "rotation": 0,
                                "rectanglelabels": ["dog"],
                            },
                            "score": 0.75,
                        }
                    ],
                }
            ],
        }
    ]


def test_the_score_of_a_task_is_the_mean_of_its_boxes(write, record_of):
    (task,) = write(record_of("a.jpg", [(0, 0, 5, 5), (0, 0, 9, 9)], scores=[0.75, 0.25]))

    assert task["predictions"][0]["score"] == 0.5


def test_boxes_of_humans_have_no_score(write, record_of):
    (task,) = write(record_of("a.jpg", [(0, 0, 5, 5)]))

    assert "score" not in task["predictions"][0]
    assert "score" not in task["predictions"][0]["result"][0]


def test_an_image_without_boxes_is_a_task_all_the_same(write, record_of):
    tasks = write(record_of("a.jpg", scores=[]), record_of("b.jpg"))

    assert [task["predictions"][0]["result"] for task in tasks] == [[], []]


def test_no_images_are_no_tasks(write):
    assert write() == []


def test_every_box_has_an_id_of_its_own(write, record_of):
    boxes = [(0, 0, 5, 5), (0, 0, 9, 9)]

    tasks = write(record_of("a.jpg", boxes), record_of("b.jpg", boxes))

    ids = [one["id"] for task in tasks for one in task["predictions"][0]["result"]]
    assert ids == ["1-1", "1-2", "2-1", "2-2"]


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("a.jpg", "s3://bucket/a.jpg"),
        ("sub/ä&b#1?.jpg", "s3://bucket/sub/%C3%A4%26b%231%3F.jpg"),
        ("\udcff.jpg", "s3://bucket/%FF.jpg"),
    ],
)
def test_names_are_quoted_after_the_prefix(write, record_of, name, address):
    (task,) = write(record_of(name), image_prefix="s3://bucket/")

    assert task["data"]["image"] == address


def test_the_configuration_names_what_the_results_name(write, record_of, tmp_path):
    classes = ClassList(('a "b" & <c>', "船"))

    (task,) = write(record_of("a.jpg", [(0, 0, 5, 5)]), classes=classes)

    config = fromstring((tmp_path / "out" / "label-config.xml").read_bytes())
    result = task["predictions"][0]["result"][0]
    assert config.find("Image").attrib == {"name": result["to_name"], "value": "$image"}
    assert config.find("RectangleLabels").attrib == {
        "name": result["from_name"],
        "toName": result["to_name"],
    }
    assert [one.get("value") for one in config.iter("Label")] == list(classes)


def test_crowd_regions_and_areas_are_counted_as_left_out(tmp_path, record_of):
    record = record_of(
        "a.jpg", [(0, 0, 5, 5), (0, 0, 9, 9)], crowd=[True, False], areas=[25, 50], scores=[1, 0.5]
    )

    left_out = write_label_studio(tmp_path / "out", [record], CLASSES, options=LabelStudioOptions())

    assert left_out == (
        "1 crowd regions: Label Studio has no regions to ignore",
        "the areas of 1 objects, smaller than their boxes: Label Studio has only boxes",
    )
    (task,) = json.loads((tmp_path / "out" / "tasks.json").read_bytes())
    assert [one["value"]["width"] for one in task["predictions"][0]["result"]] == [45]
    assert task["predictions"][0]["score"] == 0.5


def test_a_class_name_that_xml_cannot_hold_is_refused(write):
    with pytest.raises(DataError, match="configuration of Label Studio is XML, which cannot hold"):
        write(classes=ClassList(("a\x01",)))


def test_a_folder_of_the_user_is_refused(write, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tasks.json").write_text("mine")

    with pytest.raises(ConfigError, match=r"has 'tasks\.json', which distildet did not write"):
        write()

"""One entry for all formats that can be written."""

import pytest

from distildet.classes import ClassList
from distildet.data.write_label_studio import LabelStudioOptions
from distildet.data.written import write_annotations
from distildet.errors import ConfigError

CLASSES = ClassList(("cat",))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("coco", "labels.json"),
        ("yolo", "labels/a.txt"),
        ("voc", "Annotations/a.xml"),
        ("label-studio", "tasks.json"),
    ],
)
def test_each_format_is_written_by_its_writer(tmp_path, record_of, name, file):
    record = record_of("a.jpg", [(0, 0, 5, 5)])

    assert write_annotations(name, tmp_path / "out", [record], CLASSES) == ()

    assert (tmp_path / "out" / file).is_file()


def test_options_of_label_studio_are_passed_on(tmp_path, record_of):
    options = LabelStudioOptions(image_prefix="https://x/", model_version="m-1")

    write_annotations(
        "label-studio", tmp_path / "out", [record_of("a.jpg")], CLASSES, label_studio=options
    )

    text = (tmp_path / "out" / "tasks.json").read_text()
    assert '"https://x/a.jpg"' in text
    assert '"m-1"' in text


def test_an_unknown_format_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"written as 'yolov8'\. Accepted: .* mean 'yolo'\?"):
        write_annotations("yolov8", tmp_path / "out", [], CLASSES)

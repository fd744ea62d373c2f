import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distildet.classes import ClassList
from distildet.data.write_yolo import write_yolo
from distildet.data.yaml_file import read_yaml
from distildet.data.yolo import label_path
from distildet.errors import ConfigError, DataError

CLASSES = ClassList(("cat", "dog"))


def test_rows_by_hand(tmp_path, record_of):
    # 20 wide and 10 high. Centre (5, 5), 2 wide, 4 high; then the whole image.
    record = record_of("a.jpg", [(4, 3, 6, 7), (0, 0, 20, 10)], [1, 0])

    left_out = write_yolo(tmp_path / "out", [record], CLASSES)

    assert left_out == ()
    text = (tmp_path / "out" / "labels" / "a.txt").read_text()
    assert text == "1 0.25 0.5 0.1 0.4\n0 0.5 0.5 1 1\n"


def test_an_image_without_boxes_has_an_empty_file(tmp_path, record_of):
    write_yolo(tmp_path / "out", [record_of("a.jpg")], CLASSES)

    assert (tmp_path / "out" / "labels" / "a.txt").read_bytes() == b""


def test_numbers_are_written_without_an_exponent(tmp_path, record_of):
    record = record_of("a.jpg", [(0, 0, 0.01, 0.01)], size=(20000, 20000))

    write_yolo(tmp_path / "out", [record], CLASSES)

    text = (tmp_path / "out" / "labels" / "a.txt").read_text()
    assert text == "0 0.00000025 0.00000025 0.0000005 0.0000005\n"


def test_thirds_end_after_the_eleventh_decimal(tmp_path, record_of):
    # Centre (5, 5) and 10 / 3 a side of an image with sides of 10.
    record = record_of("a.jpg", [(10 / 3, 10 / 3, 20 / 3, 20 / 3)], size=(10, 10))

    write_yolo(tmp_path / "out", [record], CLASSES)

    text = (tmp_path / "out" / "labels" / "a.txt").read_text()
    assert text == "0 0.5 0.5 0.33333333333 0.33333333333\n"


def test_what_the_format_cannot_say_is_counted(tmp_path, record_of):
    records = [
        record_of("a.jpg", [(0, 0, 5, 5), (0, 0, 9, 9)], crowd=[False, True], scores=[0.5, 0.25]),
        record_of("b.jpg", [(0, 0, 5, 5)], areas=[20]),
        record_of("c.jpg", [(0, 0, 2, 2)], crowd=[True]),
    ]

    left_out = write_yolo(tmp_path / "out", records, CLASSES)

    assert left_out == (
        "the scores of 2 boxes: YOLO has no place for them",
        "2 crowd regions: YOLO has no regions to ignore",
        "the areas of 1 objects, smaller than their boxes: YOLO has only boxes",
    )
    assert (tmp_path / "out" / "labels" / "a.txt").read_text() == "0 0.125 0.25 0.25 0.5\n"
    assert (tmp_path / "out" / "labels" / "c.txt").read_text() == ""


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.jpg", "labels/a.txt"),
        ("sub/a.b.jpg", "labels/sub/a.b.txt"),
        ("images/a.jpg", "labels/a.txt"),
        ("images/x/images/a.jpg", "images/x/labels/a.txt"),
        ("images", "labels/images.txt"),
        ("\udcff.jpg", "labels/\udcff.txt"),
    ],
)
def test_label_files_have_the_names_that_are_looked_for(tmp_path, record_of, name, file):
    write_yolo(tmp_path / "out", [record_of(name)], CLASSES)

    assert (tmp_path / "out" / file).is_file()


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.b.jpg", "sub.x/a"])
def test_labels_laid_beside_images_are_where_the_reader_looks(tmp_path, record_of, name):
    write_yolo(tmp_path / "set", [record_of(name)], CLASSES)

    assert label_path(tmp_path / "set" / "images" / name).is_file()


def test_labels_of_names_with_a_folder_images_are_where_the_reader_looks(tmp_path, record_of):
    write_yolo(tmp_path / "set", [record_of("images/train/a.jpg")], CLASSES)

    assert label_path(tmp_path / "set" / "images" / "train" / "a.jpg").is_file()


def test_images_that_would_share_a_label_file_are_refused(tmp_path, record_of):
    records = [record_of("a.jpg"), record_of("b.jpg"), record_of("a.png")]

    with pytest.raises(DataError, match=r"share a file of boxes.*'a\.jpg', 'a\.png'"):
        write_yolo(tmp_path / "out", records, CLASSES)

    assert not (tmp_path / "out").exists()


def test_class_names_that_no_reader_takes_are_refused(tmp_path, record_of):
    classes = ClassList(("cat", "dog\ud800"))

    with pytest.raises(DataError, match=r"class names must be .* without .*'dog\\ud800'"):
        write_yolo(tmp_path / "out", [record_of("a.jpg")], classes)

    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_user_is_refused(tmp_path, record_of):
    (tmp_path / "data.yaml").write_text("names: [mine]")

    with pytest.raises(ConfigError, match=r"has 'data\.yaml', which distildet did not write"):
        write_yolo(tmp_path, [record_of("a.jpg")], CLASSES)


@settings(max_examples=30)  # each is flushed to the disk
@given(
    names=st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).map(
            lambda text: f"x{text}"
        ),
        min_size=1,
        max_size=5,
        unique=True,
    )
)
def test_names_of_any_letters_come_back(names, tmp_path_factory):
    folder = tmp_path_factory.mktemp("yolo") / "out"

    write_yolo(folder, [], ClassList(tuple(names)))

    expected = {str(label): name for label, name in enumerate(names)}
    assert read_yaml(folder / "data.yaml") == {"nc": str(len(names)), "names": expected}


@pytest.mark.parametrize(
    "name",
    ["no", "1", "- a", "a: b", "#", "'", '"', "\\", "a\u2028", "\x7f\x86", "船", "\U0001f6a2"],
)
def test_a_full_yaml_reader_takes_names_as_text_and_numbers_as_numbers(tmp_path, name):
    write_yolo(tmp_path / "out", [], ClassList((name,)))

    document = yaml.safe_load((tmp_path / "out" / "data.yaml").read_bytes())
    assert document == {"nc": 1, "names": {0: name}}

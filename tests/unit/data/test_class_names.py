import pytest

from distildet.data.class_names import read_class_names
from distildet.errors import DataError


def test_names_are_read_one_a_line(tmp_path):
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfcar\r\n\ntraffic light\nno\n")

    assert list(read_class_names(tmp_path / "names.txt")) == ["car", "traffic light", "no"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the class list is empty"),
        (b"car\nbus\ncar\n", "'car' occurs 2 times"),
        (b"\xff\xfe", "byte 0 is not UTF-8"),
        (b"<html>", "is an HTML page, not a list of class names"),
    ],
)
def test_files_that_list_no_names_are_told(tmp_path, content, says):
    (tmp_path / "names.txt").write_bytes(content)

    with pytest.raises(DataError, match=rf"(?i)names\.txt: .*{says}"):
        read_class_names(tmp_path / "names.txt")


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DataError, match=r"none\.txt: the class names cannot be read \(No such fil"):
        read_class_names(tmp_path / "none.txt")

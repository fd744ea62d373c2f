"""Names of images: nothing outside the folder, ids with slashes."""

import os
from pathlib import Path

import pytest

from distildet.data.names import (
    is_inside,
    is_regular_file,
    one_line,
    read_list,
    relative_name,
    require_folder,
)
from distildet.errors import DataError


@pytest.mark.parametrize(
    "name",
    [
        "a.jpg",
        "sub/a.jpg",
        "a b'\"\n.jpg",
        "..a.jpg",
        "a..jpg",
        "\N{GRINNING FACE}.jpg",
        "2026-01-01T12:30.jpg",
    ],
)
def test_names_inside_are_accepted(name):
    assert is_inside(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "/etc/passwd",
        "../x.jpg",
        "a/../../x.jpg",
        "a\\..\\x.jpg",
        "C:\\x.jpg",
        "c:/x.jpg",
        "c:x.jpg",
        "\\\\host\\x.jpg",
        "file:///x.jpg",
        "file:/x.jpg",
        "http://169.254.0.1/x.jpg",
        "a\0.jpg",
    ],
)
def test_names_that_leave_the_folder_are_refused(name):
    assert not is_inside(name)


@pytest.mark.parametrize("name", ["gone", "x" * 300, "\0", "\ud800", "."])
def test_what_is_no_file_is_told_without_an_error(tmp_path, name):
    assert not is_regular_file(tmp_path / name)


def test_a_path_with_a_line_feed_is_shown_in_one_line():
    assert one_line(Path("a\nb/c.jpg")) == r"a\nb/c.jpg"


@pytest.mark.parametrize("name", ["data.zip", "data.tar.gz"])
def test_an_archive_in_place_of_the_folder_is_refused_with_the_remedy(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\3\4")

    with pytest.raises(DataError, match=rf"{name}: .* is not a folder.* must be unpacked first"):
        require_folder(tmp_path / name)


def test_a_link_to_itself_is_no_folder(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")

    with pytest.raises(DataError, match="loop: the folder of images does not exist"):
        require_folder(tmp_path / "loop")


def test_a_relative_path_has_the_same_id_as_an_absolute_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    assert relative_name(tmp_path / "sub" / "a.jpg", tmp_path.relative_to(tmp_path)) == "sub/a.jpg"


@pytest.mark.parametrize(
    "name", ["a\u2028b.jpg", "a\x0cb.jpg", "\N{GRINNING FACE}.jpg", "a b'.jpg"]
)
def test_odd_names_survive_a_list(tmp_path, name):
    (tmp_path / "list.txt").write_text(f"{name}\n", encoding="utf-8")

    assert read_list(tmp_path / "list.txt") == (name,)


def test_names_that_are_no_utf8_survive_a_list(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff.jpg\n")

    assert read_list(tmp_path / "list.txt") == ("\udcff.jpg",)


def test_a_list_keeps_its_order_and_each_name_once(tmp_path):
    (tmp_path / "list.txt").write_text("b.jpg\r\n\n  a.jpg \nb.jpg\nsub//c.jpg\n")

    assert read_list(tmp_path / "list.txt") == ("b.jpg", "a.jpg", "sub/c.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\n \n", "the list of images is empty"),
        ("a.jpg\n../b.jpg\n", r"stay inside it.*\(1\): '\.\./b\.jpg'"),
    ],
)
def test_faulty_lists_are_refused(tmp_path, content, message):
    (tmp_path / "list.txt").write_text(content)

    with pytest.raises(DataError, match=rf"list\.txt: .*{message}"):
        read_list(tmp_path / "list.txt")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_a_list_that_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "list.txt")

    with pytest.raises(
        DataError, match=r"list\.txt: the list of images .* \(it is not a file but a folder, pipe"
    ):
        read_list(tmp_path / "list.txt")


def test_a_device_in_place_of_a_list_is_refused():
    with pytest.raises(
        DataError,
        match=r"^/dev/zero: the list .* \(it is not a file but a folder, pipe or device\)",
    ):
        read_list(Path("/dev/zero"))


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"list\.txt: the list of images cannot be read"):
        read_list(tmp_path / "list.txt")

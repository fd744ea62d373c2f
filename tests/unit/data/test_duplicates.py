"""Copies of files: equal bytes under other names, found without reading what cannot be equal."""

import os
from pathlib import Path

import pytest

from distildet.data.duplicates import find_copies


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


def test_a_file_with_the_same_bytes_is_a_copy(write):
    copy, other, original = write("a", b"xyz"), write("b", b"abc"), write("c", b"xyz")

    assert find_copies([copy, other], [original]) == {copy: original}


def test_a_file_is_no_copy_of_itself(write, tmp_path):
    file = write("a", b"xyz")
    (tmp_path / "link").symlink_to(file)

    assert find_copies([file, tmp_path / "link"], [file]) == {}


def test_what_is_no_file_is_no_copy_and_is_not_waited_for(write, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    empty = write("empty", b"")

    assert find_copies([tmp_path / "gone", tmp_path / "pipe", tmp_path], [empty]) == {}
    assert find_copies([empty], [tmp_path / "gone", tmp_path / "pipe", tmp_path]) == {}


def test_of_several_files_each_is_told_its_own_original(write):
    names = ("a", "b", "c", "d")
    copies = [write(name, name.encode()) for name in names]
    originals = [write(name * 2, name.encode()) for name in names[1:]]

    assert find_copies(copies, originals) == dict(zip(copies[1:], originals, strict=True))


def test_what_cannot_be_opened_is_no_copy():
    # The memory of this process is a regular file of size 0 that fails when it is read.
    unreadable = Path("/proc/self/mem")

    assert find_copies([unreadable], [Path("/proc/self/maps")]) == {}

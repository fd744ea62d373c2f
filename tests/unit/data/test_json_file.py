"""JSON from outside: what the standard reader passes silently is refused."""

import os
from pathlib import Path

import pytest

from distildet.data.json_file import read_json
from distildet.errors import DataError


def test_a_byte_order_mark_is_passed_over(tmp_path):
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')

    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n "b": }', r"line 2, column 7: not JSON"),
        (b'{"a": [1, 2', r"line 1, column 12: not JSON.*cut off"),
        (b'{"a": 1,}', r"line 1, column 9: not JSON"),
        (b"", "line 1, column 1: not JSON"),
        (
            b'{"a": 1, "b": 2,\n "a": 3}',
            r"line 2: key 'a' occurs 2 times.* has 'a': 1, 'b': 2, 'a': 3\.",
        ),
        (b'{"a": 1,\n"a": {"b": 1,\n"b": 2}}', "line 3: key 'b' occurs 2 times"),
        (b'[{"a": "}\\"a\\":"}, {"a": "a"},\n{"a": 1, "\\u0061" : 2}]', "line 2: key 'a' occurs"),
        (b'{"NaN": ["NaN",\n"NaN", NaN]}', "line 2: the value NaN is not JSON"),
        (b'{"a":\n-Infinity}', "line 2: the value -Infinity is not JSON"),
        (b"Infinity", "line 1: the value Infinity is not JSON"),
        (b'{"a": "\xff"}', "byte 7 is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "integer string conversion"),
    ],
)
def test_faulty_json_is_refused_with_the_place(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html>\n<p>404", "the file is an HTML page, not JSON. The download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a Git LFS pointer, not"),
    ],
)
def test_what_was_never_fetched_is_named(tmp_path, content, message):
    (tmp_path / "a.json").write_bytes(content)

    with pytest.raises(DataError, match=rf"a\.json: .*{message}"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "a.json")

    with pytest.raises(DataError, match=r"a\.json: the file cannot be read \(it is not a file but"):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.json: the file cannot be read \(No such file"):
        read_json(tmp_path / "gone.json")

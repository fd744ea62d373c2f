"""YAML from outside: values are mappings, lists and texts, and what could be more is refused."""

import os
import re
from pathlib import Path

import pytest

from distildet.data.yaml_file import SIZE_LIMIT_BYTES, parse_yaml, read_yaml
from distildet.errors import DataError


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "a.yaml").write_bytes(text.encode() if isinstance(text, str) else text)
        return read_yaml(tmp_path / "a.yaml")

    return read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1e-4\nno: [null, 12:30]\n", {"a": "1e-4", "no": ["null", "12:30"]}),
        ("\ufeffa: {0: x}\n", {"a": {"0": "x"}}),
        ("a: |\n  one\n  two\n", {"a": "one\ntwo\n"}),
        ("- a\n", ["a"]),
        ("", ""),
    ],
)
def test_every_scalar_stays_a_text(read, text, value):
    assert read(text) == value


def test_a_text_is_named_as_its_source_in_messages():
    with pytest.raises(DataError, match=r"^--set a:1:4: the alias \*x is refused"):
        parse_yaml("a: *x", "--set a")


@pytest.mark.parametrize("name", ["missing.yaml", "x" * 300])
def test_a_file_that_cannot_be_read_is_named(tmp_path, name):
    with pytest.raises(DataError, match=rf"{name}: the file cannot be read \(.+\)\. Give the path"):
        read_yaml(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!doctype html>\n<p>404", "the file is an HTML page, not YAML. The download"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "a Git LFS pointer, not"),
    ],
)
def test_what_was_never_fetched_is_named(tmp_path, content, message):
    (tmp_path / "a.yaml").write_bytes(content)

    with pytest.raises(DataError, match=rf"a\.yaml: .*{message}"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["pipe", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, make):
    make(tmp_path / "a.yaml")

    with pytest.raises(DataError, match=r"a\.yaml: the file cannot be read \(it is not a file but"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", ":3:1: the key 'a' is given already in line 1."),
        ("a: {b: 1, b: 2}\n", ":1:11: the key 'b' is given already in line 1."),
        ("a: &x 1\n", ":1:4: the anchor &x is refused. Remove it."),
        ("a: *x\n", ":1:4: the alias *x is refused. Write the value out."),
        ("a: !!python/name:os.system\n", ":1:4: the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("a: !!int 3\n", ":1:4: the tag 'tag:yaml.org,2002:int' is refused. Values are typed by"),
        ("a: !own {}\n", ":1:4: the tag '!own' is refused."),
        ("[a]: 1\n", ":1:1: this key is no text. Accepted: a name."),
        ("a: 1\n--- \nb: 2\n", ":2:1: a second document begins here. One is accepted."),
        ('a: "\\0"\n', ":1:4: the text '\\x00' has a character that no text may have."),
        ('a: "\\uD800"\n', ":1:4: the text '\\ud800' has a character"),
        ('a: 1\nb: "\\UFFFFFFFF"\n', ":2:7: no YAML: a number of a character or version is too"),
        ('a: "\\U00110000"\n', ":1:7: no YAML: a number of a character or version is too large."),
        (f"%YAML {'9' * 5000}.1\n--- a\n", ":1:7: no YAML: a number of a character or version"),
        ("a: [1,\n", ":2:1: no YAML: expected the node content"),
        ("a:\n\tb: 1\n", ":2:1: no YAML: found character '\\t' that cannot start any token."),
        ("a: b: c\n", ":1:5: no YAML: mapping values are not allowed here."),
        ("a: 1\nb: \x07\n", ":2: no YAML: special characters are not allowed."),
        (b"a: 1\nb: \xff\n", ":2: this is no UTF-8 text. Save the file as UTF-8."),
        ("a: " + "[" * 100, ":1:35: nested deeper than 32 levels."),
        ("a: " + "x" * SIZE_LIMIT_BYTES, f": larger than {SIZE_LIMIT_BYTES} bytes. Accepted: a"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_place(read, text, message):
    with pytest.raises(DataError, match=re.escape(f"a.yaml{message}")):
        read(text)


def test_all_refusals_of_the_text_are_reported_at_once(read):
    with pytest.raises(DataError) as caught:
        read("a: &x 1\nb: *x\nb: !t 2\n")

    assert [line.split(":", 1)[1] for line in str(caught.value).splitlines()] == [
        "1:4: the anchor &x is refused. Remove it.",
        "2:4: the alias *x is refused. Write the value out.",
        "3:4: the tag '!t' is refused. Values are typed by their key.",
        "3:1: the key 'b' is given already in line 2.",
    ]


def test_a_text_that_grows_without_bound_is_refused_before_it_grows(read):
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]

    with pytest.raises(DataError, match=r"the alias \*a28 is refused"):
        read("\n".join(["a0: &a0 [x]", *levels]))

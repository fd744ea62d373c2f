"""What lies in the place of a file that was never fetched."""

import pytest

from distildet.data.unfetched import describe_unfetched

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (POINTER, "the file is a Git LFS pointer, not a list. Run `git lfs pull`."),
        (
            b"\xef\xbb\xbf\n<!DOCTYPE HTML><p>",
            "the file is an HTML page, not a list. The download ",
        ),
        (b"  <HTML lang='en'>", "the file is an HTML page, not a list."),
    ],
)
def test_pages_and_pointers_are_recognised(content, message):
    assert describe_unfetched(content, "a list").startswith(message)


@pytest.mark.parametrize("content", [b"", b"{}", b"names: [html]", b"version: 1", b"\xff\xd8"])
def test_other_contents_are_not(content):
    assert describe_unfetched(content, "a list") is None

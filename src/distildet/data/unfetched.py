"""Recognises what lies in the place of a file that was never fetched."""

LONGEST_START_BYTES = 512
"""How much of a file is looked at."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def describe_unfetched(content: bytes, wanted: str) -> str | None:
    """Return what a file is instead, and what to do, or None if it may be what is wanted.

    Args:
        content: The file, or its first `LONGEST_START_BYTES`.
        wanted: What is expected there, such as "an image".
    """
    start = content[:LONGEST_START_BYTES].removeprefix(_BYTE_ORDER_MARK).lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return f"the file is a Git LFS pointer, not {wanted}. Run `git lfs pull`."
    if start[:100].startswith((b"<!doctype html", b"<html")):
        return f"the file is an HTML page, not {wanted}. The download probably failed: repeat it."
    return None

"""Pages whose tables a script writes between two marks; all else in them is written by hand."""

from pathlib import Path

from distildet import artefacts

START, END = "<!-- table -->", "<!-- end of table -->"


def write_tables(page: Path, lines: list[str]) -> None:
    """Put lines between the two marks of a page.

    Args:
        page: A Markdown file.
        lines: Of the tables.

    Raises:
        SystemExit: The page lacks a mark.
    """
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{page}: has no place for the tables. Put {START} and {END} there.")
    artefacts.write_text(page, "\n".join([f"{before}{START}", "", *lines, "", f"{END}{after}"]))

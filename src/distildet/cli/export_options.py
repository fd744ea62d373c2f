"""What the commands that write annotations have in common."""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from distildet.cli.console import print_line


class ExportFormat(StrEnum):
    """A format that can be written; typer takes no Literal where an option is repeated."""

    COCO = "coco"
    YOLO = "yolo"
    VOC = "voc"
    LABEL_STUDIO = "label-studio"


ImagePrefixOption = Annotated[
    str,
    typer.Option(help="label-studio: what stands before the name of an image in its address."),
]
# Where Label Studio serves local files; not imported, since that would load numpy.
IMAGE_PREFIX = "/data/local-files/?d="

_HINTS = {
    ExportFormat.YOLO: "lay the folder `labels` beside the folder `images`",
    ExportFormat.LABEL_STUDIO: "take label-config.xml as labeling setup, then import tasks.json",
}


def print_written(export_format: ExportFormat, place: Path, left_out: Iterable[str]) -> None:
    """Say where annotations are, what is to be done with them, and what they do not hold."""
    hint = _HINTS.get(export_format)
    print_line(f"{export_format}: {place}{f' ({hint})' if hint else ''}")
    for line in left_out:
        print_line(f"Left out: {line}")

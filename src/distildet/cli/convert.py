"""`distildet convert`: annotations in another format."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from distildet.cli.console import print_line
from distildet.cli.export_options import (
    IMAGE_PREFIX,
    ExportFormat,
    ImagePrefixOption,
    print_written,
)
from distildet.cli.options import ListOption


def convert(
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    annotations: Annotated[
        Path,
        typer.Option(help="Their boxes: JSON file (coco), XML folder (voc), data.yaml (yolo)."),
    ],
    to: Annotated[ExportFormat, typer.Option(help="Format to write.")],
    out: Annotated[Path, typer.Option(help="New folder for the annotations.")],
    annotation_format: Annotated[
        Literal["coco", "voc", "yolo"], typer.Option("--format", help="Format of the annotations.")
    ] = "coco",
    listed: ListOption = None,
    image_prefix: ImagePrefixOption = IMAGE_PREFIX,
    *,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop if a record cannot be used.")
    ] = False,
) -> None:
    """Write annotations in another format; images are only looked at, never copied.

    Example: distildet convert --images photos --annotations Annotations --format voc --to yolo
    --out as-yolo
    """
    from distildet.data.annotated import read_annotated
    from distildet.data.image_record import image_records
    from distildet.data.owned_folder import refuse_others
    from distildet.data.write_label_studio import LabelStudioOptions
    from distildet.data.written import write_annotations

    refuse_others(out)
    dataset = read_annotated(annotation_format, images, annotations, listed=listed, strict=strict)
    records, classes = image_records(dataset, images)
    left_out = write_annotations(
        to,
        out,
        records,
        classes,
        label_studio=LabelStudioOptions(image_prefix=image_prefix),
    )
    print_line(f"{sum(map(len, records))} boxes on {len(records)} images")
    print_written(to, out, (*dataset.dropped, *dataset.notes, *left_out))

"""`distildet evaluate`: COCO metrics of a detector."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from distildet.cli.console import Console, print_line
from distildet.cli.options import (
    BatchSizeOption,
    DeviceOption,
    JsonOption,
    ListOption,
    ModelArgument,
    WorkersOption,
)


def evaluate(
    model: ModelArgument,
    images: Annotated[Path, typer.Option(help="Folder of the images.")],
    annotations: Annotated[
        Path,
        typer.Option(help="Their boxes: JSON file (coco), XML folder (voc), data.yaml (yolo)."),
    ],
    annotation_format: Annotated[
        Literal["coco", "voc", "yolo"], typer.Option("--format", help="Format of the annotations.")
    ] = "coco",
    listed: ListOption = None,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    *,
    as_json: JsonOption = False,
) -> None:
    """Measure AP, AP50, ... of a detector on annotated images.

    Example: distildet evaluate runs/NAME/student --images images --annotations val.json
    """
    from distildet.data.annotated import read_annotated
    from distildet.detectors.bundle import load_detector
    from distildet.evaluation.coco_metrics import evaluate_detections
    from distildet.evaluation.detect_dataset import detect_dataset
    from distildet.recipes.run_data import with_classes
    from distildet.recipes.runner import choose_device

    detector = load_detector(model)
    read = read_annotated(annotation_format, images, annotations, listed=listed)
    dataset = with_classes(read, detector.spec.classes)
    console = Console()
    if not as_json:
        for line in (*dataset.dropped, *dataset.notes):
            console.message(f"Left out: {line}")
    try:
        detections = detect_dataset(
            detector,
            dataset.samples,
            batch_size=batch_size,
            workers=workers,
            device=choose_device(device),
            progress=None
            if as_json
            else lambda done, total: console.advance("images", done, total),
        )
    finally:
        console.close()
    evaluation = evaluate_detections(dataset, detections)
    if as_json:
        print_line(
            json.dumps({"metrics": evaluation.metrics, "per_class": evaluation.per_class}, indent=1)
        )
        return
    for name, value in evaluation.metrics.items():
        print_line(f"{name:<10}{_percent(value)}")
    for name, values in evaluation.per_class.items():
        print_line(f"  {name:<20} AP {_percent(values['AP'])}  AP50 {_percent(values['AP50'])}")


def _percent(value: float | None) -> str:
    return "not defined" if value is None else f"{100 * value:.1f}"

"""`distildet evaluate`: COCO metrics of a detector."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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

if TYPE_CHECKING:
    from distildet.evaluation.coco_metrics import Evaluation


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
    With two GPUs: torchrun --nproc-per-node 2 -m distildet evaluate runs/NAME/student ...
    """
    from distildet.data.annotated import read_annotated
    from distildet.evaluation.coco_metrics import evaluate_detections
    from distildet.evaluation.detect_dataset import detect_dataset
    from distildet.ops.processes import rank
    from distildet.recipes.declared import open_teacher
    from distildet.recipes.label_stage import with_labels_of
    from distildet.recipes.progress import Silence
    from distildet.recipes.run_data import alias_remarks, with_classes
    from distildet.training.device import choose_device
    from distildet.training.distributed import process_group

    console = Console()
    try:
        with process_group():
            progress = Silence() if as_json or rank() > 0 else console
            teacher = open_teacher(model)
            detector = teacher.detector
            read = read_annotated(annotation_format, images, annotations, listed=listed)
            # One that says how its classes stand to others is measured on those.
            classes = read.classes if teacher.is_mapped else None
            dataset = with_classes(read, classes or detector.spec.classes)
            labels = teacher.map_to(dataset.classes or detector.spec.classes).labels
            for line in (*dataset.dropped, *dataset.notes):
                progress.message(f"Left out: {line}")
            for line in alias_remarks(read, detector.spec.classes):
                progress.message(f"{annotations}: {line}")
            detections = detect_dataset(
                detector,
                dataset.samples,
                batch_size=batch_size,
                workers=workers,
                device=choose_device(device),
                progress=lambda done, total: progress.advance("images", done, total),
            )
            console.close()
            named = {name: with_labels_of(found, labels) for name, found in detections.items()}
            if rank() == 0:
                _print(evaluate_detections(dataset, named), as_json=as_json)
    finally:
        console.close()


def _print(evaluation: "Evaluation", *, as_json: bool) -> None:
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

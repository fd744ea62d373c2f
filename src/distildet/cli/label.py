"""`distildet label`: a teacher's boxes for a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from distildet.cli.console import Console, print_line
from distildet.cli.options import BatchSizeOption, DeviceOption, ListOption, WorkersOption


def label(
    teacher: Annotated[Path, typer.Argument(help="A detector bundle.")],
    images: Annotated[Path, typer.Argument(help="Folder of the images.")],
    out: Annotated[Path, typer.Option(help="Folder for the store and labels.json.")],
    listed: ListOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Score from which a box is exported.")
    ] = 0.4,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
) -> None:
    """Label images with a teacher: a resumable store, and a COCO json with scores.

    Example: distildet label runs/teacher/student photos --out labels
    """
    from distildet.data.folder import read_folder
    from distildet.pseudolabels.export_coco import write_coco
    from distildet.recipes.label_stage import STORE, label_with
    from distildet.recipes.run_context import Teacher
    from distildet.recipes.run_folder import locked, refuse_foreign
    from distildet.recipes.runner import choose_device
    from distildet.training.interruption import interruptible

    refuse_foreign(out, begun_with=STORE)
    samples = read_folder(images, listed=listed).samples
    loaded = Teacher(teacher)
    classes = loaded.detector.spec.classes
    console = Console()
    try:
        with locked(out), interruptible() as interruption:
            store = label_with(
                loaded,
                samples,
                classes,
                out / STORE,
                batch_size=batch_size,
                workers=workers,
                device=choose_device(device),
                interruption=interruption,
                progress=console,
                work="images",
            )
            stored = store.read()
            write_coco(
                out / "labels.json", stored, classes, thresholds=dict.fromkeys(classes, threshold)
            )
    finally:
        console.close()
    counts = [len(entry.detections.above(threshold)) for entry in stored.values()]
    print_line(
        f"{sum(counts)} boxes (score {threshold} and above) on {sum(map(bool, counts))} of "
        f"{len(counts)} images: {out / 'labels.json'}"
    )

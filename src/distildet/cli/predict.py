"""`distildet predict`: boxes of a detector, as JSON and drawn."""

import json
from pathlib import Path
from typing import Annotated

import typer

from distildet.cli.console import Console, print_line
from distildet.cli.options import BatchSizeOption, DeviceOption


def predict(
    model: Annotated[Path, typer.Argument(help="A detector bundle, such as runs/NAME/student.")],
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for detections.json and the drawn images.")
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Boxes below this score are left out.")
    ] = 0.3,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Detect objects; prints JSON, or writes it with drawn images to --out.

    Example: distildet predict runs/NAME/student photos --out found
    """
    from distildet import artefacts
    from distildet.data.folder import read_folder
    from distildet.detectors.bundle import load_detector
    from distildet.recipes.runner import choose_device
    from distildet.report.drawing import draw_detections

    files = [(images.name, images)]
    if not images.is_file():
        files = [(sample.id, sample.path) for sample in read_folder(images).samples]
    detector = load_detector(model).to(choose_device(device))
    classes = detector.spec.classes
    console = Console()
    document: dict[str, list[dict[str, object]]] = {}
    for start in range(0, len(files), batch_size):
        chunk = files[start : start + batch_size]
        results = detector.predict([path for _, path in chunk], batch_size=batch_size)
        for (name, path), found in zip(chunk, results, strict=True):
            kept = found.above(threshold)
            document[name] = [
                {"class": classes[int(label)], "score": round(float(score), 4), "box": box}
                for label, score, box in zip(
                    kept.labels, kept.scores, kept.boxes.round(decimals=2).tolist(), strict=True
                )
            ]
            if out is not None:
                artefacts.write_bytes(
                    (out / "drawn" / name).with_suffix(".png"),
                    draw_detections(path, kept, classes),
                )
        if out is not None:
            console.advance("images", min(start + batch_size, len(files)), len(files))
    console.close()
    if out is None:
        print_line(json.dumps(document, indent=1))
    else:
        artefacts.write_json(out / "detections.json", document)
        print_line(f"{len(document)} images: {out / 'detections.json'} and {out / 'drawn'}")

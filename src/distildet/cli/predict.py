"""`distildet predict`: boxes of a detector, as JSON and drawn."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distildet.cli.console import Console, print_error, print_line
from distildet.cli.options import BatchSizeOption, DeviceOption, ModelArgument
from distildet.errors import ConfigError, DataError

if TYPE_CHECKING:
    from distildet.classes import ClassList
    from distildet.detectors.base import Detector
    from distildet.structures import Detections

DRAWN = "drawn"
# What file systems take as the name of a file; a digest of this length tells long names apart.
_LONGEST_NAME_BYTES = 255
_DIGEST_LENGTH = 16


def predict(
    model: ModelArgument,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for detections.json and the drawn images."),
    ] = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Boxes below this score are left out.")
    ] = 0.3,
    batch_size: BatchSizeOption = 8,
    device: DeviceOption = "auto",
) -> None:
    """Detect objects; prints JSON, or writes it with drawn images to --out.

    Images that cannot be read are left out and named; the exit code is then 2.

    Example: distildet predict runs/NAME/student photos --out found
    """
    from distildet import artefacts
    from distildet.ops.placement import placed_on
    from distildet.recipes.declared import open_detector
    from distildet.report.drawing import draw_detections
    from distildet.training.device import choose_device

    if out is not None:
        _refuse_used(out)
    files, notes = _files(images)
    detector = placed_on(open_detector(model), choose_device(device))
    classes = detector.spec.classes
    console = Console()
    for line in notes:
        # Standard output is JSON alone where there is no folder.
        (print_error if out is None else console.message)(f"Left out: {line}")
    document: dict[str, list[dict[str, Any]]] = {}
    faults: list[str] = []
    detector.expect(name for name, _ in files)
    for name, path, found in _detect(detector, files, batch_size):
        if isinstance(found, DataError):
            faults.append(str(found))
            continue
        kept = found.above(threshold)
        document[name] = _records(kept, classes)
        if out is not None:
            drawing = draw_detections(path, kept, classes)
            artefacts.write_bytes(out / DRAWN / _drawn_name(name), drawing)
            console.advance("images", len(document) + len(faults), len(files))
    console.close()
    if out is None:
        print_line(json.dumps(document, indent=1))
    else:
        artefacts.write_json(out / "detections.json", document)
        print_line(f"{len(document)} images: {out / 'detections.json'} and {out / DRAWN}")
    if faults:
        raise DataError(f"{len(faults)} images were left out:\n" + "\n".join(faults))


def _refuse_used(out: Path) -> None:
    """Make sure that nothing can be overwritten: the folder is new or empty."""
    if out.exists() and not out.is_dir():
        raise ConfigError(
            f"{out}: a folder is to be written, but a file has this name. Choose another --out."
        )
    names = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    if names:
        raise ConfigError(
            f"{out}: cannot be written to, since it is not empty (it has {names[0]!r}). Choose a "
            "new folder with --out."
        )


def _drawn_name(name: str) -> str:
    """Return the name of the drawing of an image; no two images have the same.

    Args:
        name: Sample id of the image.
    """
    folder, slash, file = name.rpartition("/")
    longest = _LONGEST_NAME_BYTES - len(".png")
    encoded = os.fsencode(file)
    if len(encoded) > longest:
        digest = hashlib.sha256(encoded).hexdigest()[:_DIGEST_LENGTH]
        # A letter that is cut in two is dropped, since it is none any more.
        cut = encoded[: longest - _DIGEST_LENGTH - 1].decode("utf-8", "ignore")
        file = f"{cut}-{digest}"
    return f"{folder}{slash}{file}.png"


def _files(images: Path) -> tuple[list[tuple[str, Path]], tuple[str, ...]]:
    """Return names and paths of the images, and what is said about those left out."""
    from distildet.data.folder import read_folder

    if not images.exists():
        raise DataError(f"{images}: there is no such file or folder. Give an image or a folder.")
    if images.is_file():
        return [(images.name, images)], ()
    if not images.is_dir():
        kind = "a pipe" if images.is_fifo() else "a socket" if images.is_socket() else "a device"
        raise DataError(
            f"{images}: found {kind}, which is never waited for. Give an image or a folder of "
            "images."
        )
    dataset = read_folder(images)
    return [(sample.id, sample.path) for sample in dataset.samples], dataset.notes


def _detect(
    detector: "Detector", files: list[tuple[str, Path]], batch_size: int
) -> Iterator[tuple[str, Path, "Detections | DataError"]]:
    """Give what is found in each image, or why it cannot be looked at."""
    for start in range(0, len(files), batch_size):
        chunk = files[start : start + batch_size]
        results: list[Detections | DataError] = []
        try:
            names, paths = zip(*chunk, strict=True)
            results.extend(detector.predict(paths, batch_size=batch_size, names=names))
        except DataError:
            # One of them is damaged; which one is found out one by one.
            for name, path in chunk:
                try:
                    results.extend(detector.predict([path], names=[name]))
                except DataError as error:
                    results.append(error)
        for (name, path), found in zip(chunk, results, strict=True):
            yield name, path, found


def _records(found: "Detections", classes: "ClassList") -> list[dict[str, Any]]:
    return [
        {"class": classes[label], "score": round(score, 4), "box": box}
        for label, score, box in zip(
            found.labels.tolist(),
            found.scores.tolist(),
            found.boxes.round(decimals=2).tolist(),
            strict=True,
        )
    ]

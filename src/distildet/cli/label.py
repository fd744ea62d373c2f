"""`distildet label`: boxes of one or several teachers for a folder of images."""

from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from distildet.cli.console import Console, print_line
from distildet.cli.export_options import (
    IMAGE_PREFIX,
    ExportFormat,
    ImagePrefixOption,
    print_written,
)
from distildet.cli.options import (
    BatchSizeOption,
    DeviceOption,
    ListOption,
    ModelArgument,
    PrecisionOption,
    WorkersOption,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distildet.classes import ClassList
    from distildet.data.dataset import Dataset, Sample
    from distildet.data.image_record import ImageRecord
    from distildet.data.write_label_studio import LabelStudioOptions
    from distildet.pseudolabels.store import PseudoLabelStore
    from distildet.recipes.labelers import Labeler
    from distildet.recipes.progress import Progress
    from distildet.recipes.run_context import Teacher
    from distildet.training.interruption import Interruption


def label(
    teacher: ModelArgument,
    images: Annotated[Path, typer.Argument(help="Folder of the images.")],
    out: Annotated[Path, typer.Option(help="Folder for the store and the exports.")],
    others: Annotated[
        list[Path] | None,
        typer.Option("--with", help="A further teacher; may be given several times."),
    ] = None,
    fusion: Annotated[
        Literal["wbf", "nms"],
        typer.Option(help="How boxes of several teachers become one set: mean or strongest."),
    ] = "wbf",
    calibration: Annotated[
        Literal["rank", "none"],
        typer.Option(help="How scores of several teachers are made comparable."),
    ] = "rank",
    listed: ListOption = None,
    threshold: Annotated[
        float, typer.Option(min=0, max=1, help="Score from which a box is exported.")
    ] = 0.4,
    export: Annotated[
        list[ExportFormat] | None,
        typer.Option(help="Format to write, coco if none; may be given several times."),
    ] = None,
    image_prefix: ImagePrefixOption = IMAGE_PREFIX,
    on_bad_image: Annotated[
        Literal["error", "quarantine"],
        typer.Option(help="What an image that cannot be labeled does: end the work, or be listed."),
    ] = "quarantine",
    max_bad_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Largest share of images in quarantine, rounded up to whole images."
        ),
    ] = 0.01,
    batch_size: BatchSizeOption = 16,
    workers: WorkersOption = 2,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "fp32",
) -> None:
    """Label images with a teacher: a resumable store, and its boxes in formats of other tools.

    COCO becomes labels.json with scores; other formats become a folder of their name. Several
    teachers may know different classes: the boxes have those of all.

    Example: distildet label runs/teacher/student photos --out labels --export yolo
    Another teacher beside it: distildet label runs/a/student photos --with runs/b/student ...
    With two GPUs: torchrun --nproc-per-node 2 -m distildet label runs/teacher/student photos ...
    """
    from distildet.data.write_label_studio import LabelStudioOptions
    from distildet.ops.processes import rank
    from distildet.ops.shared_work import on_first
    from distildet.recipes.label_stage import label_with
    from distildet.recipes.progress import Silence
    from distildet.recipes.run_folder import STORE, locked
    from distildet.training.device import choose_device
    from distildet.training.distributed import process_group
    from distildet.training.interruption import interruptible

    formats = list(dict.fromkeys(export or [ExportFormat.COCO]))
    paths = [teacher, *(others or ())]
    console = Console()
    try:
        with process_group(), ExitStack() as held, interruptible() as interruption:
            progress = console if rank() == 0 else Silence()
            dataset = on_first(lambda: _begin(images, listed, out, formats))
            labelers = _opened(paths)
            classes = _joint_classes(labelers)
            for line in dataset.notes:
                progress.message(f"Left out: {line}")
            on_first(lambda: held.enter_context(locked(out)))
            label_one = partial(
                label_with,
                batch_size=batch_size,
                workers=workers,
                device=choose_device(device, precision),
                interruption=interruption,
                progress=progress,
                precision=precision,
                on_bad_image=on_bad_image,
                max_bad_fraction=max_bad_fraction,
            )
            if len(labelers) == 1:
                alone = labelers[0].teacher
                store = label_one(alone, dataset.samples, classes, out / STORE, work="images")
            else:
                store = _labeled_together(
                    labelers,
                    dataset.samples,
                    classes,
                    out,
                    label_one=label_one,
                    fusion=fusion,
                    calibration=calibration,
                    max_bad_fraction=max_bad_fraction,
                    interruption=interruption,
                    progress=progress,
                )
            options = LabelStudioOptions(
                image_prefix=image_prefix,
                model_version="+".join(
                    f"{path.resolve().name}-{one.teacher.fingerprint[:12]}"
                    for path, one in zip(paths, labelers, strict=True)
                ),
            )
            console.close()
            on_first(lambda: _finish(out, formats, store, dataset.samples, threshold, options))
    finally:
        console.close()


def _opened(paths: "Sequence[Path]") -> "list[Labeler]":
    """Return who labels; one that is alone knows nothing of other classes than its own."""
    from dataclasses import replace

    from distildet.recipes.declared import open_labeler

    labelers = [open_labeler(path, str(place)) for place, path in enumerate(paths)]
    if len(labelers) == 1:
        # Its own classes are written; how they stand to a student's is a matter of recipes.
        return [replace(labelers[0], teacher=labelers[0].teacher.unmapped())]
    return labelers


def _joint_classes(labelers: "Sequence[Labeler]") -> "ClassList":
    """Return all classes that some teacher knows, and tell each what the others know.

    Raises:
        ClassMapError: What is declared of classes does not fit; all faults are listed.
    """
    from distildet.classes import DROP, join_classes
    from distildet.errors import ClassMapError
    from distildet.recipes.run_context import share_classes

    faults = []
    for one in labelers:
        own, given = one.teacher.classes_and_map
        if all(given.get(name) == DROP for name in own):
            faults.append(
                f"{one.name}: class_map drops every class. Leave one, or this teacher out."
            )
    if faults:
        raise ClassMapError("\n".join(faults))
    classes = join_classes([one.teacher.classes_and_map for one in labelers])
    share_classes([one.teacher for one in labelers], classes)
    for one in labelers:
        try:
            one.teacher.map_to(classes)
        except ClassMapError as error:
            faults += [f"{one.name}: {line}" for line in str(error).split("\n")]
    if faults:
        told = f"Here the student's classes are those of all teachers: {', '.join(classes)}."
        raise ClassMapError("\n".join([*faults, told]))
    return classes


def _labeled_together(
    labelers: "Sequence[Labeler]",
    samples: "Sequence[Sample]",
    classes: "ClassList",
    out: Path,
    *,
    label_one: "Callable[..., PseudoLabelStore]",
    fusion: Literal["wbf", "nms"],
    calibration: Literal["rank", "none"],
    max_bad_fraction: float,
    interruption: "Interruption",
    progress: "Progress",
) -> "PseudoLabelStore":
    """Label with several teachers, and return the store of what they say together."""
    from distildet.pseudolabels.fuse import Fusion
    from distildet.recipes.fused_labels import Together, label_together

    names = {one.key: one.name for one in labelers}

    def label(loaded: "Teacher", samples: "Sequence[Sample]", folder: Path) -> "PseudoLabelStore":
        work = f"images, {names[folder.parent.name]}"
        return label_one(loaded, samples, classes, folder, work=work)

    def between(done: int, total: int) -> None:
        interruption.raise_if_requested()
        progress.advance("fusing", done, total)

    store, _ = label_together(
        Together(
            labelers=labelers,
            classes=classes,
            calibration=calibration,
            fusion=Fusion(method=fusion),
            labeled=None,
            max_bad_fraction=max_bad_fraction,
        ),
        samples,
        out,
        label=label,
        between=between,
        progress=progress,
    )
    return store


def _begin(
    images: Path, listed: Path | None, out: Path, formats: "Sequence[ExportFormat]"
) -> "Dataset":
    """Refuse folders of others, then list the images."""
    from distildet.data.folder import read_folder
    from distildet.data.owned_folder import refuse_others
    from distildet.recipes.fused_labels import TEACHERS
    from distildet.recipes.run_folder import STORE, refuse_foreign

    # Of several teachers the store in `out` itself comes last.
    own = out / TEACHERS
    has_several = own.is_dir() and all(path.name.isdigit() for path in own.iterdir())
    refuse_foreign(out, begun_with=TEACHERS if has_several else STORE)
    for name in formats:
        if name != ExportFormat.COCO:
            refuse_others(out / name)
    return read_folder(images, listed=listed)


def _finish(
    out: Path,
    formats: "Sequence[ExportFormat]",
    store: "PseudoLabelStore",
    samples: "Sequence[Sample]",
    threshold: float,
    options: "LabelStudioOptions",
) -> None:
    """Write the labels in every format, and say what is in them."""
    from distildet.pseudolabels.export import stored_records
    from distildet.recipes.label_stage import read_labels

    classes = store.classes
    records = stored_records(
        read_labels(store, samples), classes, thresholds=dict.fromkeys(classes, threshold)
    )
    written = [_export(name, out, records, classes, options) for name in formats]
    print_line(
        f"{sum(map(len, records))} boxes (score {threshold} and above) on "
        f"{sum(map(bool, records))} of {len(records)} images"
    )
    for name, (place, left_out) in zip(formats, written, strict=True):
        print_written(name, place, left_out)


def _export(
    name: ExportFormat,
    out: Path,
    records: "Sequence[ImageRecord]",
    classes: "ClassList",
    options: "LabelStudioOptions",
) -> tuple[Path, tuple[str, ...]]:
    """Write one format; return where it is, and lines that tell of what it does not hold."""
    from distildet.data.write_coco import COCO_FILE, coco_document
    from distildet.data.written import write_annotations

    if name == ExportFormat.COCO:
        # Beside the store, in a folder that is distildet's already.
        _write_unless_changed(out / COCO_FILE, coco_document(records, classes))
        return out / COCO_FILE, ()
    return out / name, write_annotations(name, out / name, records, classes, label_studio=options)


def _write_unless_changed(path: Path, content: bytes) -> None:
    """Write a file, and its sha256 beside it, by which boxes corrected by hand are told apart.

    Raises:
        ConfigError: There is another file, which is not as an earlier call wrote it.
    """
    from distildet import artefacts
    from distildet.data.names import is_regular_file
    from distildet.errors import ConfigError

    stamp = path.with_name(f".{path.name}.sha256")
    wanted = artefacts.fingerprint_bytes(content)
    if is_regular_file(path):
        written = stamp.read_bytes().strip() if is_regular_file(stamp) else b""
        found = artefacts.fingerprint_file(path)
        # A kill between the two writes leaves the wanted file without its stamp.
        if found != wanted and found.encode() != written:
            raise ConfigError(
                f"{path}: cannot be written again, since it is not as distildet wrote it: somebody "
                "may have corrected it. Choose a new folder with --out, or move this file."
            )
    artefacts.write_bytes(path, content)
    artefacts.write_text(stamp, f"{wanted}\n")

"""Detector bundles: a folder with weights and what is needed to build the detector again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors.torch import load_file, save

import distildet.detectors.faster_rcnn
import distildet.detectors.fcos
import distildet.detectors.retinanet  # noqa: F401 - importing a family registers it
from distildet import artefacts
from distildet.classes import ClassList
from distildet.detectors.base import DETECTORS, Detector
from distildet.detectors.black_box import BlackBoxDetector
from distildet.detectors.stock_weights import load_stock_detector
from distildet.detectors.weights_file import no_such_file
from distildet.errors import ConfigError, WeightsError

BUNDLE_FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
STOCK_SUFFIXES = (".pth", ".pt")
DECLARED_SUFFIXES = {
    ".onnx": "write {detector: onnx, weights: FILE, classes, image_size, input, output} into "
    "`teachers` of a recipe, or into a YAML file for the command line.",
    ".json": "write {detector: results, file: FILE} into `teachers` of a recipe, or into a YAML "
    "file for the command line.",
}
"""What to do with a file that is no detector of ours, by its suffix."""


class _BundleConfig(BaseModel):
    """What `config.json` must hold; it decides what is built, so nothing is guessed."""

    model_config = ConfigDict(strict=True)

    family: str
    classes: Annotated[tuple[str, ...], Field(strict=False)]
    image_size: Annotated[int, Field(ge=1)]
    options: dict[str, Any]

    @field_validator("options")
    @classmethod
    def _has_no_weights(cls, options: dict[str, Any]) -> dict[str, Any]:
        # A bundle has its own weights; a download or another file is never started from it.
        if "pretrained" in options:
            raise ValueError("`pretrained` is no option of a bundle")
        return options


def build_detector(family: str, *, classes: ClassList, **options: Any) -> Detector:
    """Build a detector by the name of its family.

    Args:
        family: Such as "retinanet"; `distildet list` shows all.
        classes: What it detects.
        **options: Options of the family's constructor.

    Raises:
        ConfigError: Unknown family or option; the message has the nearest name.
    """
    cls = DETECTORS.get(family)
    faults = DETECTORS.unknown_options(family, options)
    if faults:
        raise ConfigError("\n".join(faults))
    detector: Detector = cls(classes, **options)
    return detector


def bundle_config(detector: Detector) -> dict[str, Any]:
    """Return what `config.json` holds: how to build the detector and what it expects."""
    spec = detector.spec
    return {
        "format": BUNDLE_FORMAT,
        "family": spec.family,
        "classes": list(spec.classes),
        "options": dict(spec.options),
        "image_size": spec.image_size,
        "preprocessing": {"mean": list(spec.mean), "std": list(spec.std), "colour": "RGB 0..1"},
        "licence": spec.licence,
    }


def save_detector(detector: Detector, folder: Path | str) -> None:
    """Write a bundle atomically; an older bundle at that place is replaced.

    Args:
        detector: Whose weights and spec are written.
        folder: The bundle's folder.

    Raises:
        ConfigError: The folder holds something else, or cannot be written; or the detector has no
            weights.
        ResourceError: The disk is full; an older bundle is intact.
    """
    folder = Path(folder)
    if isinstance(detector, BlackBoxDetector):
        raise ConfigError(
            f"{folder}: {detector.name} ({detector.spec.family}) has no weights that a bundle "
            "could hold. Accepted: a detector that distildet built."
        )
    _refuse_foreign(folder)
    weights = _weights(detector)
    with artefacts.new_folder(folder) as temporary:
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        config = json.dumps(bundle_config(detector), indent=1)
        (temporary / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")


def _weights(detector: Detector) -> bytes:
    return save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    )


def load_detector(
    path: Path | str,
    *,
    classes: ClassList | Sequence[str] | None = None,
    image_size: int | None = None,
    batch_norm_eps: float | None = None,
) -> Detector:
    """Load a detector from its bundle or from a file of stock weights, in eval mode.

    A .pth or .pt file is the state dict of a stock torchvision RetinaNet, FCOS or Faster R-CNN;
    the options are for such files only, since a bundle states its own.

    Args:
        path: The bundle's folder, or the file.
        classes: Names of the file's class columns; not needed for torchvision's COCO files.
        image_size: Longer side in pixels of the images it sees; 1067 where it is not given.
        batch_norm_eps: What was added to the variances of the file's backbone in training, where
            that is not what torchvision's builders do; see `load_stock_detector`.

    Raises:
        ClassMapError: A class name occurs twice or is empty.
        ConfigError: An option has no meaning, or is given for a bundle.
        WeightsError: The folder is no bundle, is damaged, or comes from a newer version; the file
            has code in it, or is not of an accepted model.
    """
    path = Path(path)
    if _is_weights_file(path):
        return load_stock_detector(
            path,
            classes=_class_list(path, classes),
            image_size=image_size,
            batch_norm_eps=batch_norm_eps,
        )
    _refuse_options(
        path, {"classes": classes, "image_size": image_size, "batch_norm_eps": batch_norm_eps}
    )
    return _load_bundle(path)


def _load_bundle(folder: Path) -> Detector:
    try:
        config = _BundleConfig.model_validate(_read_config(folder))
        detector = build_detector(
            config.family,
            classes=ClassList(config.classes),
            image_size=config.image_size,
            **{n: tuple(v) if isinstance(v, list) else v for n, v in config.options.items()},
        )
        detector.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except WeightsError:
        raise
    # An option may hold anything, and what a network makes of that is known to nobody.
    except Exception as error:
        raise WeightsError(
            f"{folder}: the bundle is damaged ({error}). Make it again, or take another copy."
        ) from error
    return detector.eval()


def bundle_fingerprint(
    path: Path,
    *,
    classes: ClassList | Sequence[str] | None = None,
    image_size: int | None = None,
) -> str:
    """Return a hash of the weights and configuration of a bundle, or of a file and its options.

    Args:
        path: The bundle's folder, or a file of stock weights.
        classes: As given to `load_detector`.
        image_size: As given to `load_detector`.

    Raises:
        ConfigError: An option is given for a bundle.
        WeightsError: The folder is no bundle, or there is no such file.
    """
    options = {"classes": classes, "image_size": image_size}
    if _is_weights_file(path):
        if not path.is_file():
            raise no_such_file(path)
        options["classes"] = None if classes is None else list(classes)
        weights = artefacts.fingerprint_file(path)
        return artefacts.fingerprint_json({"weights": weights, "options": options})
    _refuse_options(path, options)
    config = _read_config(path)
    weights = artefacts.fingerprint_file(path / WEIGHTS_FILE)
    return artefacts.fingerprint_json({"weights": weights, "config": config})


def detector_fingerprint(detector: Detector) -> str:
    """Return a hash of the weights and configuration of a detector in memory.

    Args:
        detector: Of a registered family.
    """
    weights = artefacts.fingerprint_bytes(_weights(detector))
    return artefacts.fingerprint_json({"weights": weights, "config": bundle_config(detector)})


def _is_weights_file(path: Path) -> bool:
    return path.suffix.lower() in STOCK_SUFFIXES and not path.is_dir()


def _class_list(path: Path, classes: ClassList | Sequence[str] | None) -> ClassList | None:
    if isinstance(classes, str):
        raise ConfigError(f"{path}: `classes` is the text {classes!r}. Accepted: a list of names.")
    if classes is None or isinstance(classes, ClassList):
        return classes
    return ClassList(tuple(classes))


def _refuse_options(folder: Path, options: Mapping[str, object]) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(
            f"{folder}: {' and '.join(given)} cannot be given for a bundle, which states its own. "
            f"Accepted for a file of stock weights ({' or '.join(STOCK_SUFFIXES)})."
        )


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir():
        return
    others = sorted({path.name for path in folder.iterdir()} - {WEIGHTS_FILE, CONFIG_FILE})
    if others:
        raise ConfigError(
            f"{folder}: a bundle cannot be written here, since the folder has other files (such as "
            f"{others[0]!r}) that would be lost. Give the name of a new folder."
        )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if folder.suffix.lower() in DECLARED_SUFFIXES and folder.is_file():
        raise WeightsError(
            f"{folder}: not a detector bundle, but what is declared as a teacher: "
            f"{DECLARED_SUFFIXES[folder.suffix.lower()]} See docs/black-box-teachers.md."
        )
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise WeightsError(
            f"{folder}: not a detector bundle. A bundle is a folder with {WEIGHTS_FILE} and "
            f"{CONFIG_FILE}, such as runs/NAME/student. Stock weights of torchvision are files "
            f"that end in {' or '.join(STOCK_SUFFIXES)}."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(config["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise WeightsError(
            f"{path}: not a bundle configuration ({type(error).__name__}: {error}). Make the "
            "bundle again, or take another copy."
        ) from error
    if version > BUNDLE_FORMAT:
        raise WeightsError(
            f"{path}: bundle format {version} is newer than this version of distildet knows "
            f"({BUNDLE_FORMAT}). Update distildet."
        )
    return config

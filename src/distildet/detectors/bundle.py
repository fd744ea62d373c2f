"""Detector bundles: a folder with weights and what is needed to build the detector again."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save

# Importing a family registers it.
import distildet.detectors.faster_rcnn
import distildet.detectors.fcos
import distildet.detectors.retinanet  # noqa: F401
from distildet import artefacts
from distildet.classes import ClassList
from distildet.detectors.base import DETECTORS, Detector
from distildet.errors import ConfigError, DistildetError, WeightsError

BUNDLE_FORMAT = 1
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"


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
        ConfigError: The folder holds something else, or cannot be written.
        ResourceError: The disk is full; an older bundle is intact.
    """
    folder = Path(folder)
    _refuse_foreign(folder)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()
    }
    with artefacts.new_folder(folder) as temporary:
        (temporary / WEIGHTS_FILE).write_bytes(save(tensors))
        config = json.dumps(bundle_config(detector), indent=1)
        (temporary / CONFIG_FILE).write_text(config + "\n", encoding="utf-8")


def load_detector(folder: Path | str) -> Detector:
    """Load a detector from its bundle, in eval mode.

    Raises:
        WeightsError: The folder is no bundle, is damaged, or comes from a newer version.
    """
    folder = Path(folder)
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
    except (
        DistildetError,
        ValueError,
        TypeError,
        RuntimeError,
        OSError,
        SafetensorError,
    ) as error:
        raise WeightsError(
            f"{folder}: the bundle is damaged ({error}). Make it again, or take another copy."
        ) from error
    return detector.eval()


def bundle_fingerprint(folder: Path) -> str:
    """Return a hash of the weights and configuration of a bundle.

    Raises:
        WeightsError: The folder is no bundle.
    """
    config = _read_config(folder)
    weights = artefacts.fingerprint_file(folder / WEIGHTS_FILE)
    return artefacts.fingerprint_json({"weights": weights, "config": config})


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
    if not path.is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise WeightsError(
            f"{folder}: not a detector bundle. A bundle is a folder with {WEIGHTS_FILE} and "
            f"{CONFIG_FILE}, such as runs/NAME/student."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(config["format"])
    except (ValueError, KeyError, TypeError) as error:
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

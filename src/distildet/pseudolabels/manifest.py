"""What a store of labels or predictions holds: its work, and whether that is the work asked."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distildet import artefacts
from distildet.classes import ClassList
from distildet.errors import StoreError

STORE_FORMAT = 1
MANIFEST = "manifest.json"
OF_SEVERAL = "fusion"
"""The setting that only fused labels have: those of several teachers, or calibrated ones."""

_SHOWN = 200
"""Characters of a value that messages have at most."""
_SEVERAL = (
    "holds what several teachers have said together, but now one labels alone. Name the others "
    "again (with --with, or in the recipe), choose another folder, or delete this one."
)
_ALONE = (
    "holds what one teacher has said alone, but now several label together, or scores are "
    "calibrated. Name that teacher alone, choose another folder, or delete this one."
)

_AtLeastOne = Annotated[int, Field(ge=1)]


class _Format(BaseModel):
    """All that versions of the manifest have in common."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: _AtLeastOne


class Manifest(_Format):
    """The work of a store.

    Args:
        format: Version of the layout of the folder.
        settings: JSON values that the labels depend on, such as the teacher's fingerprint.
        classes: Names of the stored labels.
        num_images: Images of the whole work.
        samples_fingerprint: Of the sample ids, in order.
        shard_size: Images a shard; the last one may have fewer.
    """

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, Any]
    classes: tuple[str, ...]
    num_images: Annotated[int, Field(ge=0)]
    samples_fingerprint: str
    shard_size: _AtLeastOne

    @property
    def fingerprint(self) -> str:
        """Hash of the whole work; each shard carries it."""
        return artefacts.fingerprint_json(self.model_dump(mode="json"))


def describe_work(
    settings: Mapping[str, Any], classes: ClassList, sample_ids: Sequence[str], shard_size: int
) -> Manifest:
    """Return the manifest of a work; arguments as for `PseudoLabelStore.create_or_resume`."""
    return Manifest(
        format=STORE_FORMAT,
        # As they come back from the file: tuples are lists there.
        settings=json.loads(json.dumps(settings)),
        classes=classes.names,
        num_images=len(sample_ids),
        samples_fingerprint=artefacts.fingerprint_json(list(sample_ids)),
        shard_size=shard_size,
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a store, atomically."""
    artefacts.write_json(folder / MANIFEST, manifest.model_dump(mode="json"))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a store.

    Raises:
        StoreError: There is none, or it is damaged or from a newer version.
    """
    path = folder / MANIFEST
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(
            f"{folder}: not a pseudo-label store, {MANIFEST} is missing. Make one with "
            "`distildet label`."
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}). It must be a file that you may read."
        ) from error
    try:
        version = _Format.model_validate_json(content).format
        if version <= STORE_FORMAT:
            return Manifest.model_validate_json(content)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise StoreError(
            f"{path}: damaged ({where}: {fault['msg']}). Delete {folder} and label again."
        ) from error
    raise StoreError(
        f"{path}: store format {version} is newer than this version of distildet knows "
        f"({STORE_FORMAT}). Update distildet."
    )


def refuse_other_work(
    folder: Path, before: Manifest, now: Manifest, *, what: str = "labels"
) -> None:
    """Make sure that a store holds the work that is asked.

    Args:
        folder: Of the store, for the message.
        before: The manifest that is there.
        now: The manifest of the work asked.
        what: It holds, for the message.

    Raises:
        StoreError: They differ; the message has the old and the new value of each difference, of
            long lists the first place where they differ, or that only one of them is of several
            teachers.
    """
    old, new = _facts(before), _facts(now)
    if (OF_SEVERAL in before.settings) != (OF_SEVERAL in now.settings):
        raise StoreError(f"{folder}: {_SEVERAL if OF_SEVERAL in before.settings else _ALONE}")
    differences = [
        _difference(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise StoreError(
            f"{folder}: holds {what} of another teacher, setting or set of images: "
            f"{'; '.join(differences)}. {what.capitalize()} of two works are never mixed: choose "
            "another folder, or delete this one."
        )


def _difference(name: str, old: Any, new: Any) -> str:
    longest = max(len(repr(old)), len(repr(new)))
    if not isinstance(old, list | tuple) or not isinstance(new, list | tuple) or longest <= _SHOWN:
        return f"{name} was {old!r:.{_SHOWN}} and is {new!r:.{_SHOWN}}"
    both = min(len(old), len(new))
    place = next((i for i in range(both) if old[i] != new[i]), both)
    if place == both:
        return f"{name} had {len(old)} entries and has {len(new)}"
    return _difference(f"{name}[{place}]", old[place], new[place])


def _facts(manifest: Manifest) -> dict[str, Any]:
    """Return every value that two works can differ in by its name."""
    # Labels made in float32 say nothing about it.
    said = {"precision": "fp32", **manifest.settings}
    settings = {f"settings.{name}": value for name, value in said.items()}
    return {**manifest.model_dump(exclude={"settings"}), **settings}

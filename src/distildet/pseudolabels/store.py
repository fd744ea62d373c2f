"""The pseudo-label store: Parquet shards with everything a teacher detected above its floor.

Thresholds are applied when the labels are read, so another threshold needs no new labeling.
Folder: `manifest.json`, and for each shard `shards/shard-00000.parquet` with its hash in
`shards/shard-00000.json`, which is written last: a shard without it does not exist.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distildet import artefacts
from distildet.classes import ClassList
from distildet.errors import DataError, StoreError
from distildet.structures import Detections

STORE_FORMAT = 1
MANIFEST = "manifest.json"
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("boxes", pa.list_(pa.float32())),  # xyxy of box 0, xyxy of box 1, ...
        ("scores", pa.list_(pa.float32())),
        ("labels", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class StoredLabels:
    """What a teacher found in one image.

    Args:
        detections: In the image frame.
        image_size: (height, width) of the image.
    """

    detections: Detections
    image_size: tuple[int, int]


class PseudoLabelStore:
    """A store on disk; use `create_or_resume` or `open`.

    Args:
        folder: Of the store.
        manifest: Content of its manifest.
    """

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        self.classes = ClassList(tuple(manifest["classes"]))
        self.num_images: int = manifest["images"]
        self.shard_size: int = manifest["shard_size"]

    @classmethod
    def create_or_resume(
        cls,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        classes: ClassList,
        sample_ids: Sequence[str],
        shard_size: int,
    ) -> "PseudoLabelStore":
        """Open the store of exactly this work, or make it.

        Args:
            folder: Of the store.
            settings: JSON values that the labels depend on, such as the teacher's fingerprint.
            classes: Class list of the stored labels.
            sample_ids: All images that will be labeled, in order.
            shard_size: Images a shard.

        Raises:
            StoreError: The folder holds other work; the message lists what differs.
        """
        manifest = {
            "format": STORE_FORMAT,
            "settings": json.loads(json.dumps(settings)),
            "classes": list(classes),
            "images": len(sample_ids),
            "sample_ids": artefacts.fingerprint_json(list(sample_ids)),
            "shard_size": shard_size,
        }
        path = folder / MANIFEST
        if path.exists():
            _refuse_other_work(folder, _read_manifest(folder), manifest)
        else:
            artefacts.write_json(path, manifest)
        artefacts.remove_partial(folder)
        artefacts.remove_partial(folder / "shards")
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> "PseudoLabelStore":
        """Open an existing store.

        Raises:
            StoreError: There is none, or it is damaged or from a newer version.
        """
        return cls(folder, _read_manifest(folder))

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole work."""
        return -(-self.num_images // self.shard_size)

    def missing_shards(self) -> list[int]:
        """Return the shards that are not there, or whose content does not have its hash."""
        return [index for index in range(self.num_shards) if not self._is_whole(index)]

    def write_shard(
        self,
        index: int,
        detections: Mapping[str, Detections],
        image_sizes: Mapping[str, tuple[int, int]],
    ) -> None:
        """Write one shard atomically; the same labels give the same bytes.

        Args:
            index: Of the shard.
            detections: By sample id, in the order of the work.
            image_sizes: (height, width) by sample id.

        Raises:
            DataError: A box or score is not finite.
            ResourceError: The disk is full; earlier shards are intact.
        """
        rows = [_row(name, found, image_sizes[name]) for name, found in detections.items()]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer)
        content = buffer.getvalue()
        artefacts.write_bytes(self._shard(index), content)
        artefacts.write_json(
            self._shard(index).with_suffix(".json"),
            {"sha256": artefacts.fingerprint_bytes(content)},
        )

    def read(self) -> dict[str, StoredLabels]:
        """Read all labels by sample id; an image without detections has an empty entry.

        Raises:
            StoreError: Shards are missing.
        """
        missing = self.missing_shards()
        if missing:
            raise StoreError(
                f"{self.folder}: {len(missing)} of {self.num_shards} shards are missing or "
                f"damaged, the first being {self._shard(missing[0]).name}. Run the same labeling "
                "again: it makes only these."
            )
        labels: dict[str, StoredLabels] = {}
        for index in range(self.num_shards):
            for row in pq.read_table(self._shard(index)).to_pylist():
                labels[row["id"]] = _stored(row)
        return labels

    def _shard(self, index: int) -> Path:
        return self.folder / "shards" / f"shard-{index:05d}.parquet"

    def _is_whole(self, index: int) -> bool:
        path = self._shard(index)
        try:
            noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            return bool(noted["sha256"] == artefacts.fingerprint_file(path))
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = int(manifest["format"])
        missing = {"settings", "classes", "images", "sample_ids", "shard_size"} - manifest.keys()
    except FileNotFoundError as error:
        raise StoreError(
            f"{folder}: not a pseudo-label store, {MANIFEST} is missing. Make one with "
            "`distildet label`."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path}: damaged ({error}). Delete {folder} and label again.") from error
    if version > STORE_FORMAT:
        raise StoreError(
            f"{path}: store format {version} is newer than this version of distildet knows "
            f"({STORE_FORMAT}). Update distildet."
        )
    if missing:
        raise StoreError(
            f"{path}: damaged, {', '.join(sorted(missing))} is missing. Delete {folder} and label "
            "again."
        )
    return manifest


def _refuse_other_work(folder: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    flat_before = {**before, **{f"settings.{k}": v for k, v in before["settings"].items()}}
    flat_now = {**now, **{f"settings.{k}": v for k, v in now["settings"].items()}}
    differences = [
        f"{name} was {flat_before.get(name)!r} and is {flat_now.get(name)!r}"
        for name in sorted(flat_before.keys() | flat_now.keys())
        if name != "settings" and flat_before.get(name) != flat_now.get(name)
    ]
    if differences:
        raise StoreError(
            f"{folder}: holds labels of another teacher, setting or set of images: "
            f"{'; '.join(differences)}. Labels of two works are never mixed: choose another "
            "folder, or delete this one."
        )


def _row(name: str, found: Detections, image_size: tuple[int, int]) -> dict[str, Any]:
    if not (torch.isfinite(found.boxes).all() and torch.isfinite(found.scores).all()):
        raise DataError(
            f"{name}: the teacher returned a box or score that is not finite. Nothing of this "
            "shard was stored. Look at the teacher's weights, or leave this image out."
        )
    return {
        "id": name,
        "height": image_size[0],
        "width": image_size[1],
        "boxes": found.boxes.to(torch.float32).flatten().numpy(),
        "scores": found.scores.to(torch.float32).numpy(),
        "labels": found.labels.to(torch.int32).numpy(),
    }


def _stored(row: Mapping[str, Any]) -> StoredLabels:
    boxes = np.array(row["boxes"], dtype=np.float32).reshape(-1, 4)
    return StoredLabels(
        detections=Detections(
            boxes=torch.from_numpy(boxes),
            scores=torch.tensor(row["scores"], dtype=torch.float32),
            labels=torch.tensor(row["labels"], dtype=torch.int64),
        ),
        image_size=(row["height"], row["width"]),
    )

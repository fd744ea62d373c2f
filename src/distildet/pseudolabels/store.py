"""The pseudo-label store: Parquet shards with everything a teacher detected above its floor.

Thresholds are applied when the labels are read, so another threshold needs no new labeling.
Folder: `manifest.json`, and for each shard `shards/shard-00000.parquet` with a note beside it,
`shards/shard-00000.json`, that has its hash and that of the manifest. The note is written last: a
shard without it, or whose note says something else, does not exist.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
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
from distildet.pseudolabels.manifest import (
    MANIFEST,
    Manifest,
    describe_work,
    read_manifest,
    refuse_other_work,
    write_manifest,
)
from distildet.structures import Detections

_SCHEMA = pa.schema(
    [
        ("id", pa.binary()),  # UTF-8, but names of files can have bytes that are not
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
        manifest: What it holds.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.classes = ClassList(manifest.classes)
        self.num_images = manifest.num_images
        self.shard_size = manifest.shard_size
        self._work = manifest.fingerprint

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
            ResourceError: The disk is full.
        """
        manifest = describe_work(settings, classes, sample_ids, shard_size)
        if (folder / MANIFEST).exists():
            refuse_other_work(folder, read_manifest(folder), manifest)
        else:
            write_manifest(folder, manifest)
        artefacts.remove_partial(folder)
        artefacts.remove_partial(folder / "shards")
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> "PseudoLabelStore":
        """Open an existing store.

        Raises:
            StoreError: There is none, or it is damaged or from a newer version.
        """
        return cls(folder, read_manifest(folder))

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole work."""
        return -(-self.num_images // self.shard_size)

    def missing_shards(self) -> list[int]:
        """Return the shards that are not there, are damaged, or belong to another work."""
        return [index for index in range(self.num_shards) if self._content(index) is None]

    def write_shard(self, index: int, labels: Mapping[str, StoredLabels]) -> None:
        """Write one shard atomically; the same labels give the same bytes.

        Args:
            index: Of the shard.
            labels: By sample id, in the order of the work.

        Raises:
            DataError: A box, score or label is out of range; nothing of the shard is written.
            ResourceError: The disk is full; earlier shards are intact.
        """
        rows = [_row(name, entry, self.classes) for name, entry in labels.items()]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), buffer)
        content = buffer.getvalue()
        artefacts.write_bytes(self._shard(index), content)
        artefacts.write_json(_note(self._shard(index)), self._expected_note(content))

    def read(self) -> dict[str, StoredLabels]:
        """Read all labels by sample id; an image without detections has an empty entry.

        Raises:
            StoreError: Shards are missing.
        """
        labels: dict[str, StoredLabels] = {}
        for index in range(self.num_shards):
            labels.update(self.read_shard(index))
        return labels

    def read_shard(self, index: int) -> dict[str, StoredLabels]:
        """Read the labels of one shard, as `read`.

        Raises:
            StoreError: It is missing.
        """
        content = self._content(index)
        if content is None:
            missing = self.missing_shards()
            raise StoreError(
                f"{self.folder}: {len(missing)} of {self.num_shards} shards are missing or "
                f"damaged, the first being {self._shard(missing[0]).name}. Run the same labeling "
                "again: it makes only these."
            )
        return dict(_labels_of(content))

    def fingerprint(self) -> str:
        """Return a hash of the work and of all labels.

        Raises:
            StoreError: Shards are missing.
        """
        shards = [self._content(index) for index in range(self.num_shards)]
        if None in shards:
            self.read()
        hashes = [artefacts.fingerprint_bytes(shard) for shard in shards if shard is not None]
        return artefacts.fingerprint_json([self._work, *hashes])

    def _shard(self, index: int) -> Path:
        return self.folder / "shards" / f"shard-{index:05d}.parquet"

    def _content(self, index: int) -> bytes | None:
        """Return the bytes of a shard, or None unless they are what its note says."""
        path = self._shard(index)
        try:
            content = path.read_bytes()
            note = json.loads(_note(path).read_bytes())
        except (OSError, ValueError):
            return None
        return content if note == self._expected_note(content) else None

    def _expected_note(self, content: bytes) -> dict[str, str]:
        return {"sha256": artefacts.fingerprint_bytes(content), "work": self._work}


def _note(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _row(name: str, entry: StoredLabels, classes: ClassList) -> dict[str, Any]:
    found = entry.detections
    boxes = found.boxes.to("cpu", torch.float32)
    scores = found.scores.to("cpu", torch.float32)
    labels = found.labels.cpu()
    rules = {
        "a box that is not finite": torch.isfinite(boxes).all(),
        "a score that is not in 0..1": ((scores >= 0) & (scores <= 1)).all(),
        f"a label that is not in 0..{len(classes) - 1}": (
            (labels >= 0) & (labels < len(classes))
        ).all(),
    }
    for fault, is_kept in rules.items():
        if not is_kept:
            raise DataError(
                f"{name}: the teacher returned {fault}. Nothing of this shard was stored. Look at "
                "the teacher's weights, or leave this image out."
            )
    return {
        "id": name.encode("utf-8", "surrogateescape"),
        "height": entry.image_size[0],
        "width": entry.image_size[1],
        "boxes": boxes.flatten().numpy(),
        "scores": scores.numpy(),
        "labels": labels.to(torch.int32).numpy(),
    }


def _labels_of(content: bytes) -> Iterator[tuple[str, StoredLabels]]:
    """Yield the images of a shard; their tensors are views of one tensor a column."""
    table = pq.read_table(pa.BufferReader(content)).combine_chunks()
    columns = {name: table[name].chunk(0) for name in table.column_names}
    counts = np.diff(columns["scores"].offsets.to_numpy()).tolist()
    boxes = _flat(columns["boxes"]).reshape(-1, 4).split_with_sizes(counts)
    scores = _flat(columns["scores"]).split_with_sizes(counts)
    labels = _flat(columns["labels"]).to(torch.int64).split_with_sizes(counts)
    heights, widths = columns["height"].to_pylist(), columns["width"].to_pylist()
    for i, name in enumerate(columns["id"].to_pylist()):
        yield (
            name.decode("utf-8", "surrogateescape"),
            StoredLabels(
                detections=Detections(boxes=boxes[i], scores=scores[i], labels=labels[i]),
                image_size=(heights[i], widths[i]),
            ),
        )


def _flat(lists: Any) -> torch.Tensor:
    # Copied, since the memory of an Arrow array is read-only.
    return torch.tensor(lists.flatten().to_numpy())

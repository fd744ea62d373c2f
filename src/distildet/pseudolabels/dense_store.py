"""The store of a teacher's dense predictions: shards of safetensors, read through memory maps.

Folder: `manifest.json`, `layout.safetensors` with what all views have in common, and
`shards/shard-00000.safetensors`; beside each of the last two a note, `*.json`, that has its hash
and that of the manifest. The note is written last: what has none, or another one, does not exist.
"""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from distildet import artefacts
from distildet.classes import ClassList
from distildet.errors import StoreError
from distildet.pseudolabels.dense_codes import DenseLayout, decode_dense
from distildet.pseudolabels.manifest import (
    MANIFEST,
    Manifest,
    describe_work,
    read_manifest,
    refuse_other_work,
    write_manifest,
)
from distildet.structures import DensePrediction

# Each costs a memory map, of which a process may have some 65000, and no open file.
_OPEN_SHARDS = 1024


class DenseStore:
    """A store on disk that `create_or_resume` has begun, here or in another process.

    Args:
        folder: Of the store; nothing is read from it or written to it yet.
        manifest: What it holds.
        view_ids: All views, in order.
    """

    def __init__(self, folder: Path, manifest: Manifest, view_ids: Sequence[str]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.shard_size = manifest.shard_size
        self._work = manifest.fingerprint
        self._places = {view_id: place for place, view_id in enumerate(view_ids)}
        self._opened: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._layout: DenseLayout | None = None

    @classmethod
    def create_or_resume(
        cls,
        folder: Path,
        *,
        settings: Mapping[str, Any],
        classes: ClassList,
        view_ids: Sequence[str],
        shard_size: Callable[[], int],
    ) -> "DenseStore":
        """Open the store of exactly this work, or make it; in one process alone.

        Args:
            folder: Of the store.
            settings: JSON values that the predictions depend on, such as the teacher's fingerprint.
            classes: Of the teacher.
            view_ids: All views, in order.
            shard_size: Tells the views a shard of a new store; one that is there keeps its own.

        Raises:
            StoreError: The folder holds other work; the message lists what differs.
            ResourceError: The disk is full.
        """
        before = read_manifest(folder) if (folder / MANIFEST).exists() else None
        size = shard_size() if before is None else before.shard_size
        manifest = describe_work(settings, classes, view_ids, size)
        if before is None:
            write_manifest(folder, manifest)
        else:
            refuse_other_work(folder, before, manifest, what="predictions")
        return cls(folder, manifest, view_ids)

    def close(self) -> None:
        """Let go of all shards, so that the disk has their room again when they are deleted."""
        self._opened.clear()

    @property
    def num_views(self) -> int:
        """Number of views of the whole work."""
        return len(self._places)

    @property
    def num_shards(self) -> int:
        """Number of shards of the whole work."""
        return -(-self.num_views // self.shard_size)

    def views_of(self, index: int) -> range:
        """Return the places of the views of a shard among all views."""
        start = index * self.shard_size
        return range(start, min(start + self.shard_size, self.num_views))

    def has_shard(self, index: int) -> bool:
        """Tell whether a shard is there, whole, and of this work; all of it is read for that."""
        return self._is_whole(self._shard(index))

    @property
    def layout(self) -> DenseLayout | None:
        """What all views have in common; None as long as it was not written."""
        path = self.folder / "layout.safetensors"
        if self._layout is None and self._is_whole(path):
            content = path.read_bytes()
            priors = load(content)
            facts = json.loads(_note(path).read_bytes())["layout"]
            self._layout = DenseLayout(
                priors=tuple(priors[str(level)] for level in range(len(priors))), **facts
            )
        return self._layout

    def write_layout(self, layout: DenseLayout) -> None:
        """Write what all views have in common, atomically."""
        priors = {str(level): boxes for level, boxes in enumerate(layout.priors)}
        facts = {name: value for name, value in vars(layout).items() if name != "priors"}
        self._write(self.folder / "layout.safetensors", priors, layout=facts)

    def write_shard(self, index: int, stored: Mapping[str, Tensor]) -> None:
        """Write one shard atomically; the same predictions give the same bytes.

        Args:
            index: Of the shard.
            stored: As `encode_dense` returns it, for the views of the shard in order.

        Raises:
            ResourceError: The disk is full; earlier shards are intact.
        """
        self._write(self._shard(index), stored)

    def read(self, view_ids: Sequence[str], device: torch.device) -> DensePrediction:
        """Return the predictions of some views, as float32.

        Args:
            view_ids: Of the views, in the wanted order.
            device: Where to.

        Raises:
            StoreError: A view is not in the store, or its shard cannot be read any more.
        """
        layout = self.layout
        if layout is None or not view_ids or not self._places.keys() >= set(view_ids):
            raise StoreError(
                f"{self.folder}: has nothing of the views {', '.join(view_ids) or 'of no name'}. "
                "It serves the stage that it was made for alone."
            )
        places = [divmod(self._places[view_id], self.shard_size) for view_id in view_ids]
        opened = [(self._columns(shard), row) for shard, row in places]
        stored = {
            # Rows are views of the memory map; stacking reads them.
            name: torch.stack([columns[name][row] for columns, row in opened]).to(device)
            for name in opened[0][0]
        }
        return decode_dense(stored, layout)

    def _shard(self, index: int) -> Path:
        return self.folder / "shards" / f"shard-{index:05d}.safetensors"

    def _columns(self, index: int) -> dict[str, Any]:
        """Return the columns of a shard, of which rows can be read; it stays open for a while."""
        if index not in self._opened:
            self._opened[index] = self._open(index)
            if len(self._opened) > _OPEN_SHARDS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(index)
        return self._opened[index]

    def _open(self, index: int) -> dict[str, Any]:
        path = self._shard(index)
        try:
            with safe_open(path, framework="pt") as shard:
                return {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"{path}: cannot be read any more ({error}). Run the same command again: it makes "
                "what is missing."
            ) from error

    def _write(self, path: Path, tensors: Mapping[str, Tensor], **facts: Any) -> None:
        content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
        note = {"sha256": artefacts.fingerprint_bytes(content), "work": self._work, **facts}
        artefacts.write_bytes(path, content)
        artefacts.write_json(_note(path), note)

    def _is_whole(self, path: Path) -> bool:
        """Tell whether a file is what its note says, and of this work."""
        try:
            note = json.loads(_note(path).read_bytes())
            return bool(
                note["work"] == self._work and note["sha256"] == artefacts.fingerprint_file(path)
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False


def _note(path: Path) -> Path:
    return path.with_suffix(".json")

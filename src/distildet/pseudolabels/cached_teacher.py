"""A teacher whose dense predictions are read instead of computed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from distildet.detectors.base import Detector
from distildet.ops.precision import full_precision
from distildet.ops.processes import wait_for_all
from distildet.pseudolabels.dense_store import DenseStore
from distildet.specs import DetectorSpec
from distildet.structures import DENSE, DetectorOutput, ImageBatch, Targets

CACHED_PARTS = frozenset({DENSE})
"""The parts of a detector's output that can be stored."""


class CachedTeacher(Detector):
    """A teacher that knows the views of one stage, and has no weights.

    Args:
        spec: Of the teacher whose predictions were stored.
        store: With the predictions of every view that will be asked for.
    """

    def __init__(self, spec: DetectorSpec, store: DenseStore) -> None:
        super().__init__(replace(spec, parts=spec.parts & CACHED_PARTS))
        self._store = store

    def forward(
        self,
        batch: ImageBatch,
        targets: Sequence[Targets] | None = None,  # noqa: ARG002 - the contract of a detector
        *,
        want: Iterable[str],
        given: Mapping[str, Any] | None = None,  # noqa: ARG002 - likewise
    ) -> DetectorOutput:
        """Return the stored predictions of the batch's views, on the device of its pixels.

        Args:
            batch: With names of its views.
            targets: Not used.
            want: Nothing but "dense".
            given: Not used.

        Raises:
            MissingPartError: Another part is wanted.
            StoreError: A view is not in the store.
        """
        if DENSE not in self.wanted(want):
            return DetectorOutput()
        # Autocast on CPUs cannot stack what is stored in float16.
        with full_precision(torch.device("cpu")):
            return DetectorOutput(dense=self._store.read(batch.view_ids, batch.pixels.device))

    def close(self) -> None:
        """Let go of what is stored, before it is deleted; it is opened again where it is read.

        Several processes must all come here; when one goes on, all have let go. A network file
        system does not delete a folder of which any of them has a file open.
        """
        self._store.close()
        wait_for_all()

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Return no parameters: there are none."""
        return []

    def class_layers(self) -> tuple[str, ...]:
        """Return no names: there are no layers."""
        return ()

"""Labels that another stage or seed of the run has made already."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from distildet import artefacts
from distildet.pseudolabels.manifest import MANIFEST, Manifest, read_manifest
from distildet.pseudolabels.quarantine import QUARANTINE
from distildet.recipes.run_context import RunContext
from distildet.recipes.run_folder import is_done, stage_folder
from distildet.recipes.schema import LabelStage


def reuse_labels(context: RunContext, stage: LabelStage, wanted: Manifest, folder: Path) -> None:
    """Copy what the same detector has said about the same images in a finished stage of the run.

    That of teachers is the same for every seed and in every round; that of a student only for the
    very same weights.

    Args:
        context: Of the run.
        stage: That labels.
        wanted: The work of the store.
        folder: Of the store; if it is there already, nothing is done.
    """
    if folder.exists():
        return
    for other in _finished_stores(context, stage):
        listed = other.with_name(QUARANTINE)
        is_accepted = stage.on_bad_image == "quarantine" or not listed.exists()
        if is_accepted and read_manifest(other) == wanted:
            # The list before the store: a kill in between must not leave a store without it.
            if listed.exists():
                artefacts.write_bytes(folder.with_name(QUARANTINE), listed.read_bytes())
            with artefacts.new_folder(folder) as temporary:
                shutil.copytree(other, temporary, dirs_exist_ok=True)
            return


def _finished_stores(context: RunContext, stage: LabelStage) -> Iterator[Path]:
    """Yield the stores of the run that are complete and were labeled in the same batches."""
    for index, other in enumerate(context.recipe.stages):
        if isinstance(other, LabelStage) and other.batch_size == stage.batch_size:
            for folder in sorted(context.out.glob(f"seed-*/{stage_folder(Path(), index, other)}")):
                if is_done(folder):
                    yield from sorted(path.parent for path in folder.rglob(MANIFEST))

"""Labels four images with two teachers, each time killed at a later file operation, then goes on.

One of the images cannot be decoded. Run as `python label_together_with_kills.py FOLDER`; prints as
JSON how many times it was killed, and after which kills the folder differs from an undisturbed one.
"""

import json
import sys
from pathlib import Path

import label_with_kills as kills
import torch

from distildet.classes import ClassList
from distildet.pseudolabels.fuse import Fusion
from distildet.pseudolabels.generate import label_images
from distildet.pseudolabels.quarantine import QUARANTINE, Quarantine
from distildet.pseudolabels.store import PseudoLabelStore
from distildet.recipes.fused_labels import Together, label_together
from distildet.recipes.labelers import Labeler
from distildet.recipes.progress import Silence

CLASSES = ClassList(("cat", "dog"))


class KnownClasses:
    """What a labeler asks of a teacher here."""

    def __init__(self, seed: str) -> None:
        self.seed = seed

    def map_to(self, classes: ClassList) -> "KnownClasses":
        return self

    @property
    def known(self) -> tuple[bool, ...]:
        return (True, True)


def label_one(teacher: KnownClasses, samples, folder: Path) -> PseudoLabelStore:
    store = PseudoLabelStore.create_or_resume(
        folder,
        settings={"teacher": teacher.seed},
        classes=CLASSES,
        sample_ids=[sample.id for sample in samples],
        shard_size=kills.SHARD_SIZE,
    )
    label_images(
        store,
        samples,
        plan=lambda part: [part],
        load=kills.load,
        predict=lambda batch: [kills.found_in(teacher.seed + name) for name in batch.image_ids],
        quarantine=Quarantine(folder.with_name(QUARANTINE), samples, max_bad_fraction=0.25),
    )
    return store


def label(folder: Path) -> list[str]:
    label_together(
        Together(
            labelers=[
                Labeler(name=name, key=name, teacher=KnownClasses(name)) for name in ("0", "1")
            ],
            classes=CLASSES,
            calibration="rank",
            fusion=Fusion(),
            labeled=None,
            max_bad_fraction=0.25,
        ),
        kills.SAMPLES,
        folder,
        label=label_one,
        between=lambda done, total: None,
        progress=Silence(),
    )
    return []


def main(root: Path) -> None:
    kills.label = label
    label(root / "undisturbed")
    expected = kills.content_of(root / "undisturbed")
    killed = 0
    different: list[int] = []
    while kills.is_killed_at(folder := root / str(killed), killed):
        label(folder)
        if kills.content_of(folder) != expected:
            different.append(killed)
        killed += 1
    sys.stdout.write(json.dumps({"killed": killed, "different": different}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]).resolve())

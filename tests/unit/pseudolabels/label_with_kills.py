"""Labels four images again and again, each time killed at a later file operation, then goes on.

One of the images cannot be decoded and is put into quarantine.

Run as `python label_with_kills.py FOLDER`; prints as JSON how many times it was killed, after
which kills the finished store differs from an undisturbed one, and after which an image of a shard
that was complete was labeled again. One process imports torch and forks the victims: starting each
anew would take minutes.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from distildet.classes import ClassList
from distildet.data.dataset import Sample
from distildet.data.evaluation_batches import LoadedBatch
from distildet.errors import DataError
from distildet.pseudolabels.generate import label_images
from distildet.pseudolabels.quarantine import Quarantine
from distildet.pseudolabels.store import PseudoLabelStore
from distildet.structures import Detections, ImageBatch

SAMPLES = tuple(Sample(id=f"{i}.jpg", path=Path(f"{i}.jpg")) for i in range(4))
BAD = "1.jpg"
SHARD_SIZE = 2
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.scandir", "os.listdir"}


def load(plan: Sequence[Sequence[Sample]]) -> Iterator[LoadedBatch]:
    for samples in plan:
        names = tuple(sample.id for sample in samples if sample.id != BAD)
        images = ImageBatch(
            pixels=torch.zeros(len(names), 3, 1, 1),
            sizes=torch.ones(len(names), 2, dtype=torch.int64),
            image_sizes=torch.full((len(names), 2), 100),
            image_to_batch=torch.eye(3, dtype=torch.float64).repeat(len(names), 1, 1),
            image_ids=names,
        )
        bad = [sample.id for sample in samples if sample.id == BAD]
        yield LoadedBatch(images=images, faults={name: DataError("damaged") for name in bad})


def found_in(name: str) -> Detections:
    """Return detections that follow from the name alone; some images have none."""
    numbers = torch.tensor(list(hashlib.sha256(name.encode()).digest()))
    count = int(numbers[0]) % 4
    corners = numbers[: 4 * count].reshape(-1, 4) / 3
    return Detections(boxes=corners, scores=numbers[:count] / 255, labels=numbers[:count] % 2)


def label(folder: Path) -> list[str]:
    """Label what is missing; return the names of the images that were labeled."""
    seen: list[str] = []

    def predict(batch: ImageBatch) -> list[Detections]:
        seen.extend(batch.image_ids)
        return [found_in(name) for name in batch.image_ids]

    store = PseudoLabelStore.create_or_resume(
        folder / "store",
        settings={"teacher": "abc"},
        classes=ClassList(("cat", "dog")),
        sample_ids=[sample.id for sample in SAMPLES],
        shard_size=SHARD_SIZE,
    )
    quarantine = Quarantine(folder / "quarantine.jsonl", SAMPLES, max_bad_fraction=0.25)
    label_images(
        store, SAMPLES, plan=lambda part: [part], load=load, predict=predict, quarantine=quarantine
    )
    return seen


def is_killed_at(folder: Path, last_event: int) -> bool:
    """Label in a process that dies right before a file operation; False if it finished."""
    child = os.fork()
    if child == 0:
        events = iter(range(last_event))

        def die_when_due(event: str, arguments: tuple[object, ...]) -> None:
            is_ours = event in FILE_EVENTS and str(arguments[0]).startswith(str(folder))
            if is_ours and next(events, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die_when_due)
        label(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        raise SystemExit(f"The process failed in {folder}.")
    return os.WIFSIGNALED(status)


def complete_shards(folder: Path) -> set[str]:
    """Return the names of the images whose shard has its note."""
    notes = folder.glob("store/shards/shard-*.json")
    starts = [int(note.stem.removeprefix("shard-")) * SHARD_SIZE for note in notes]
    return {sample.id for start in starts for sample in SAMPLES[start : start + SHARD_SIZE]}


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main(root: Path) -> None:
    label(root / "undisturbed")
    expected = content_of(root / "undisturbed")
    killed = 0
    different: list[int] = []
    labeled_again: list[int] = []
    while is_killed_at(folder := root / str(killed), killed):
        before = complete_shards(folder)
        if before & set(label(folder)):
            labeled_again.append(killed)
        if content_of(folder) != expected:
            different.append(killed)
        killed += 1
    result = {"killed": killed, "different": different, "labeled_again": labeled_again}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]).resolve())

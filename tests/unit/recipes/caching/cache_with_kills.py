"""Fills a teacher cache again and again, each time killed at a later file operation, then goes on.

Run as `python cache_with_kills.py FOLDER`; prints as JSON how many times it was killed, after which
kills the finished cache differs from an undisturbed one, and after which a view of a shard that was
complete was computed again. One process imports torch and forks the victims: starting each anew
would take minutes.
"""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import torch
from PIL import Image

from distildet.classes import ClassList
from distildet.data.dataset import Sample
from distildet.data.loader import Stream, TrainingSample
from distildet.detectors.base import Detector
from distildet.recipes import teacher_cache
from distildet.recipes.cache_schema import TeacherCacheConfig
from distildet.specs import DetectorSpec
from distildet.structures import DENSE, DensePrediction, DetectorOutput, Targets
from distildet.training.interruption import Interruption

SHARD_SIZE = 2
FILE_EVENTS = {"open", "os.rename", "os.remove", "os.chmod", "os.mkdir", "os.scandir", "os.listdir"}
SEEN: Counter[str] = Counter()


class MeanDetector(Detector):
    """Says of an image how bright it is, at two places."""

    def forward(self, batch, targets=None, *, want, given=None):
        SEEN.update(batch.view_ids)
        logits = batch.pixels.mean((2, 3))[:, None].repeat(1, 2, 1)
        dense = DensePrediction(
            logits=(logits,),
            box_codes=(logits.repeat(1, 1, 2)[:, :, :4],),
            priors=(torch.zeros(2, 4),),
            activation="sigmoid",
        )
        return DetectorOutput(dense=dense)

    def backbone_parameters(self):
        return []

    def class_layers(self):
        return ()


def detector() -> MeanDetector:
    return MeanDetector(
        DetectorSpec(
            family="mean",
            classes=ClassList(("red", "green", "blue")),
            levels=(),
            head="dense",
            parts=frozenset({DENSE}),
            image_size=32,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            licence="none",
        )
    )


def stream(folder: Path) -> Stream:
    samples = []
    for index in range(3):
        path = folder / f"{index}.png"
        Image.new("RGB", (20, 20), (80 * index, 40, 20)).save(path)
        sample = Sample(id=path.name, path=path)
        targets = Targets(
            boxes=torch.zeros(0, 4),
            labels=torch.zeros(0, dtype=torch.int64),
            weights=torch.zeros(0),
            ignore=torch.zeros(0, 4),
            known_classes=torch.ones(3, dtype=torch.bool),
            origin="human",
        )
        samples.append(TrainingSample(sample=sample, targets=targets))
    return Stream(name="labeled", samples=tuple(samples))


def fill(folder: Path, images: Stream) -> Counter[str]:
    """Fill what is missing; return how often each view was computed."""
    SEEN.clear()
    context = SimpleNamespace(
        teachers=[SimpleNamespace(fingerprint="abc", detector=detector())],
        recipe=SimpleNamespace(data=SimpleNamespace(image_size=32, workers=0)),
        device=torch.device("cpu"),
        precision="fp32",
        interruption=Interruption(),
        progress=SimpleNamespace(message=lambda text: None, advance=lambda *numbers: None),
        work=str,
    )
    teacher_cache.cached_teacher(
        context,
        TeacherCacheConfig(views=2),
        [(images, 1)],
        folder,
        seed=0,
        steps=6,
        augmentation=None,
        batch_size=2,
    )
    return SEEN


def is_killed_at(folder: Path, images: Stream, last_event: int) -> bool:
    """Fill in a process that dies right before a file operation; False if it finished."""
    child = os.fork()
    if child == 0:
        events = iter(range(last_event))

        def die_when_due(event: str, arguments: tuple[object, ...]) -> None:
            is_ours = event in FILE_EVENTS and str(arguments[0]).startswith(str(folder))
            if is_ours and next(events, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die_when_due)
        fill(folder, images)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        raise SystemExit(f"The process failed in {folder}.")
    return os.WIFSIGNALED(status)


def complete_views(folder: Path, names: list[str]) -> set[str]:
    """Return the names of the views whose shard has its note."""
    notes = folder.glob("teacher-cache/shards/shard-*.json")
    starts = [int(note.stem.removeprefix("shard-")) * SHARD_SIZE for note in notes]
    return {name for start in starts for name in names[start : start + SHARD_SIZE]}


def content_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main(root: Path) -> None:
    images = stream(root)
    names = [f"labeled/{number}/{index}.png" for number in range(2) for index in range(3)]
    # The first view is looked at once more, to learn what all have in common.
    usual = Counter({**dict.fromkeys(names, 1), names[0]: 2})
    if fill(root / "undisturbed", images) != usual:
        raise SystemExit("An undisturbed call computes other views.")
    expected = content_of(root / "undisturbed")
    killed = 0
    different: list[int] = []
    computed_again: list[int] = []
    while is_killed_at(folder := root / str(killed), images, killed):
        before = complete_views(folder, names)
        again = fill(folder, images)
        if before & set(again):
            computed_again.append(killed)
        if content_of(folder) != expected:
            different.append(killed)
        killed += 1
    result = {"killed": killed, "different": different, "computed_again": computed_again}
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    torch.set_num_threads(1)
    teacher_cache.SHARD_SIZE = SHARD_SIZE
    main(Path(sys.argv[1]).resolve())

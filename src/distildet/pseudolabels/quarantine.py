"""Images that cannot be labeled: set aside and listed, so that one of them ends no long work."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from distildet import artefacts
from distildet.data.dataset import Sample
from distildet.data.names import is_regular_file
from distildet.errors import GateError, StoreError

QUARANTINE = "quarantine.jsonl"

FailedStage: TypeAlias = Literal["decode", "teacher"]

# Shares such as 0.07 of 100 come out a little above the whole number that is meant.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class _BadImage:
    """One line of the list.

    Args:
        file: Sample id of the image.
        stage: What failed: decoding it, or the teacher, which had no answer or boxes that were not
            finite.
        error: The whole message.
        bytes: Size of the file; None if there is no file.
        sha256: Of the file; None if there is no file.
    """

    file: str
    stage: FailedStage
    error: str
    bytes: int | None
    sha256: str | None


class Quarantine:
    """The list of one work; what an earlier call wrote is read, so that work can go on.

    The file has the images in the order of the work, whatever order they were found in, so that
    interrupted work ends with the same bytes. While no image is bad there is no file. Where several
    processes share the work, each has such a list and adds the same images; the one of rank 0
    writes.

    Args:
        path: Of the list.
        samples: All images of the work, in order.
        max_bad_fraction: Share of them that may be set aside, 0..1, rounded up to whole images.

    Raises:
        StoreError: The file at `path` is no such list.
    """

    def __init__(self, path: Path, samples: Sequence[Sample], *, max_bad_fraction: float) -> None:
        self.path = path
        self._sample_by_id = {sample.id: sample for sample in samples}
        self._max_bad_fraction = max_bad_fraction
        self._written = path.read_bytes() if path.exists() else b""
        self._bad_by_id = {
            bad.file: bad for bad in _parse(path, self._written) if bad.file in self._sample_by_id
        }

    def __len__(self) -> int:
        """Return the number of images that are set aside."""
        return len(self._bad_by_id)

    def __contains__(self, sample_id: object) -> bool:
        """Tell whether an image is set aside."""
        return sample_id in self._bad_by_id

    def add(self, sample_id: str, stage: FailedStage, error: str) -> None:
        """Set an image aside; `write` makes it last.

        Args:
            sample_id: Of an image of the work.
            stage: What failed.
            error: The whole message.
        """
        num_bytes, sha256 = _facts(self._sample_by_id[sample_id].path)
        self._bad_by_id[sample_id] = _BadImage(
            file=sample_id, stage=stage, error=error, bytes=num_bytes, sha256=sha256
        )

    def take_over(self, other: "Quarantine", name: str) -> None:
        """Set aside what another list of the same images has; `write` makes it last.

        Args:
            other: The list of a teacher.
            name: Of that teacher, which stands before what it alone has to do with. An image that
                is listed already keeps its reasons before those of the other list.
        """
        for sample_id, bad in other._bad_by_id.items():
            reason = bad.error if bad.stage == "decode" else f"{name}: {bad.error}"
            before = self._bad_by_id.get(sample_id)
            if before is None:
                self._bad_by_id[sample_id] = replace(bad, error=reason)
            elif reason != before.error:
                self._bad_by_id[sample_id] = replace(before, error=f"{before.error} {reason}")

    def forget(self, sample_ids: Iterable[str]) -> None:
        """Take images that are looked at again off the list."""
        for sample_id in sample_ids:
            self._bad_by_id.pop(sample_id, None)

    def mended(self) -> set[str]:
        """Return the listed images whose file is not what it was."""
        return {
            name
            for name, bad in self._bad_by_id.items()
            if _facts(self._sample_by_id[name].path) != (bad.bytes, bad.sha256)
        }

    def write(self) -> None:
        """Write the list atomically, or take it away when it is empty.

        Raises:
            ResourceError: The disk is full; the older list is intact.
        """
        listed = [self._bad_by_id[name] for name in self._sample_by_id if name in self._bad_by_id]
        content = b"".join(f"{json.dumps(asdict(bad))}\n".encode() for bad in listed)
        if content == self._written:
            return
        if content:
            artefacts.write_bytes(self.path, content)
        else:
            self.path.unlink()
        self._written = content

    def raise_if_too_many(self) -> None:
        """End the work if more images are set aside than may be.

        Raises:
            GateError: They are; the message names the list.
        """
        total = len(self._sample_by_id)
        accepted = num_accepted(total, self._max_bad_fraction)
        if len(self) > accepted:
            raise GateError(
                f"{self.path}: lists {len(self)} of {total} images that cannot be labeled, each "
                f"with its reason. Accepted are {accepted} (max_bad_fraction "
                f"{self._max_bad_fraction}). Mend these images, or raise max_bad_fraction, and "
                "label again."
            )


def num_accepted(total: int, max_bad_fraction: float) -> int:
    """Return how many of so many images may be set aside.

    Args:
        total: Images of the work.
        max_bad_fraction: Share of them, 0..1, rounded up to whole images.
    """
    return math.ceil(max_bad_fraction * total - _ROUNDING)


def _parse(path: Path, content: bytes) -> list[_BadImage]:
    try:
        return [_BadImage(**json.loads(line)) for line in content.splitlines()]
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"{path}: no list of images that were set aside ({error}). Delete it together with the "
            "store beside it, and label again."
        ) from error


def _facts(path: Path) -> tuple[int | None, str | None]:
    """Return size and hash of a file; pipes and what is not there have none."""
    if not is_regular_file(path):
        return None, None
    try:
        return path.stat().st_size, artefacts.fingerprint_file(path)
    except OSError:
        return None, None

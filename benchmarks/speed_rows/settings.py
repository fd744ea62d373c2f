"""What the command line asks of every row."""

from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to measure.

    Args:
        device: Where to compute.
        folder: For all that a measurement writes; deleted afterwards.
        asked_repeats: Timed rounds of every row; None for as many as the row takes by itself.
        is_quick: Small sizes and two rounds: shows that the benchmark works, and no speed.
        images: Folder of photographs for labeling; None for drawn scenes.
    """

    device: torch.device
    folder: Path
    asked_repeats: int | None = None
    is_quick: bool = False
    images: Path | None = None

    def repeats(self, usual: int) -> int:
        """Return the timed rounds of a row.

        Args:
            usual: As many as it takes by itself.
        """
        if self.asked_repeats is not None:
            return self.asked_repeats
        return 2 if self.is_quick else usual

    @property
    def neck_channels(self) -> int:
        """Width of neck and head of the trained detectors."""
        return 32 if self.is_quick else 128

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of the images of a training batch; one of them is the largest."""
        if self.is_quick:
            return ((64, 64), (48, 64))
        return ((224, 224), (168, 224), (224, 168), (149, 224))

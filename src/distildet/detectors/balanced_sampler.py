"""Draws the anchors or regions of an image that a two-stage detector learns from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distildet import artefacts
from distildet.ops.draws import step_seed
from distildet.structures import BACKGROUND, LEFT_OUT


@dataclass(frozen=True, kw_only=True)
class BalancedSampler:
    """Draws up to a number of an image's foreground and background, each without repetition.

    Args:
        number: Most that are drawn; background fills up what foreground leaves.
        foreground_share: Most of these that are foreground, 0..1.
    """

    number: int
    foreground_share: float

    def __call__(self, matched: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from one image.

        Args:
            matched: [n] int64 as `match_anchors` returns it; what is left out is not drawn.
            generator: Source of the random numbers, on the CPU.

        Returns:
            Indices of the foreground and of the background drawn, each ascending.
        """
        foreground = torch.where(matched >= 0)[0]
        background = torch.where(matched == BACKGROUND)[0]
        foreground = _drawn(foreground, self._most_foreground, generator)
        return foreground, _drawn(background, self.number - len(foreground), generator)

    def left_out(self, matched: Tensor, generator: torch.Generator) -> Tensor:
        """Draw from what is left out of one image, at most as many as foreground may be.

        Args:
            matched: [n] int64 as `match_anchors` returns it.
            generator: Source of the random numbers, on the CPU.

        Returns:
            Indices, ascending.
        """
        return _drawn(torch.where(matched == LEFT_OUT)[0], self._most_foreground, generator)

    @property
    def _most_foreground(self) -> int:
        return int(self.number * self.foreground_share)


def image_generators(image_ids: Sequence[str]) -> list[torch.Generator]:
    """Return a generator for each image, from the seed of the step.

    What is drawn for an image then depends on that seed and the image alone, not on the images
    beside it: a batch that is shared out gives the same draws.

    Args:
        image_ids: The sample ids.
    """
    seed = step_seed()
    return [
        torch.Generator().manual_seed(int(artefacts.fingerprint_json([seed, name])[:15], 16))
        for name in image_ids
    ]


def _drawn(indices: Tensor, number: int, generator: torch.Generator) -> Tensor:
    # The order of drawing is no order of importance: sorted, sums do not depend on it.
    chosen = torch.randperm(len(indices), generator=generator)[:number].sort().values
    return indices[chosen.to(indices.device)]

"""How often reliability falls, with an interval over scenes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000


def counted(
    clear: NDArray[np.float64], spoiled: NDArray[np.float64], scenes: Sequence[Sequence[int]]
) -> dict[str, float]:
    """Return the share of pairs in which reliability falls, and what explains it.

    Args:
        clear: [n] reliability of the objects as they are.
        spoiled: [n] of the same objects, spoiled.
        scenes: The numbers of the objects of each scene, every object once.

    Returns:
        "falls" with "low" and "high", its 95 % interval by bootstrap over scenes; "equal", the
        share of pairs that are the same; "lowest", of clear objects with a reliability of 0, which
        cannot fall; the means "clear" and "spoiled".
    """
    falls = spoiled < clear
    low, high = share_interval(falls, scenes)
    return {
        "falls": float(falls.mean()),
        "low": low,
        "high": high,
        "equal": float((spoiled == clear).mean()),
        "lowest": float((clear == 0).mean()),
        "clear": float(clear.mean()),
        "spoiled": float(spoiled.mean()),
    }


def share_interval(
    falls: NDArray[np.bool_], scenes: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Return the 95 % interval of a share, whole scenes being drawn with replacement.

    Args:
        falls: [n].
        scenes: The numbers of the objects of each scene; the objects of one are near copies.
    """
    sizes = np.array([len(scene) for scene in scenes])
    counts = np.array([falls[list(scene)].sum() for scene in scenes])
    drawn = np.random.default_rng(0).integers(len(scenes), size=(RESAMPLES, len(scenes)))
    shares = counts[drawn].sum(1) / sizes[drawn].sum(1)
    low, high = np.quantile(shares, [0.025, 0.975]).tolist()
    return low, high

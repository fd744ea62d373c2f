"""The streams of images that a stage mixes, and how a batch is shared out among them."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

Stream = Literal["labeled", "unlabeled", "all"]
TargetKind = Literal["human", "pseudo"]

LABELED_BY: dict[Stream, tuple[Stream, ...]] = {
    "labeled": ("labeled", "all"),
    "unlabeled": ("unlabeled", "all"),
    "all": ("all",),
}
"""Stream -> the choices of images of a label stage that give pseudo-labels to all of it."""


def counts_by_stream(ratios: Mapping[Stream, float], num_images: int) -> dict[Stream, int]:
    """Share the images of a batch out by ratio, by the method of the largest remainder.

    Args:
        ratios: Stream -> positive ratio; need not sum to 1.
        num_images: Images in the batch.

    Returns:
        Stream -> whole number of images, in the order of `ratios`; they sum to `num_images`. Of
        equal remainders the stream that stands first is served first.
    """
    # Fractions keep ties exact and cannot overflow, whatever numbers a recipe has.
    exact = {stream: Fraction(ratio) for stream, ratio in ratios.items()}
    total = sum(exact.values())
    quotas = {stream: ratio * num_images / total for stream, ratio in exact.items()}
    counts = {stream: int(quota) for stream, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda stream: counts[stream] - quotas[stream])
    for stream in by_remainder[: num_images - sum(counts.values())]:
        counts[stream] += 1
    return counts

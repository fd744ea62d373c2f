"""How dense predictions are kept on disk: as halves, whole or with their largest logits alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from distildet.errors import ConfigError, DataError
from distildet.structures import DensePrediction

_LARGEST_HALF = torch.finfo(torch.float16).max


@dataclass(frozen=True, kw_only=True)
class DenseLayout:
    """What the stored predictions of all views have in common.

    Args:
        priors: Per level [n 4] float32, as in `DensePrediction`.
        num_classes: Of the head.
        activation: How logits become probs.
        has_quality: Whether the head has quality logits.
        top_k: Logits kept of a view; 0 keeps all.
    """

    priors: tuple[Tensor, ...]
    num_classes: int
    activation: Literal["sigmoid", "softmax"]
    has_quality: bool
    top_k: int

    @property
    def level_sizes(self) -> list[int]:
        """Number of priors of each level."""
        return [len(level) for level in self.priors]

    @property
    def view_bytes(self) -> int:
        """Bytes that the predictions of one view take on disk."""
        num_priors = sum(self.level_sizes)
        codes = 4 + self.has_quality
        if not self.top_k:
            return 2 * num_priors * (self.num_classes + codes)
        # A logit and the codes of its prior as halves, its index, and one floor for the view.
        return min(self.top_k, num_priors * self.num_classes) * (2 + 4 + 2 * codes) + 4


def layout_of(dense: DensePrediction, top_k: int) -> DenseLayout:
    """Return the layout of the predictions of a batch, priors on the CPU.

    Args:
        dense: Of any batch on the canvas of all views.
        top_k: Logits to keep of a view; 0 keeps all.

    Raises:
        ConfigError: Only a part of the logits of a softmax shall be kept.
    """
    if top_k and dense.activation == "softmax":
        raise ConfigError(
            f"teacher_cache.top_k is {top_k}, but the classes of this teacher share one softmax, "
            "which means nothing for a part of them. Accepted: 0, which keeps all logits."
        )
    return DenseLayout(
        priors=tuple(level.detach().to("cpu", torch.float32) for level in dense.priors),
        num_classes=dense.logits[0].shape[2],
        activation=dense.activation,
        has_quality=dense.quality_logits is not None,
        top_k=top_k,
    )


def encode_dense(
    dense: DensePrediction, names: Sequence[str], *, top_k: int = 0
) -> dict[str, Tensor]:
    """Return the predictions of a batch as they are stored, on the CPU.

    Args:
        dense: Sigmoid or softmax; where `top_k` is given, sigmoid.
        names: Of the images, for the message.
        top_k: Logits to keep of each view: the largest over all priors and classes.

    Returns:
        Tensors with the views as first axis. Of all n priors: `logits` [b n k], `box_codes`
        [b n 4] and, where there are any, `quality_logits` [b n], float16. With `top_k` these are
        [b top_k], [b top_k 4] and [b top_k], and beside them stand `indices` [b top_k] int32, prior
        times k plus class, and `floor` [b] float32, which all other logits are read as: the logit
        of their mean probability.

    Raises:
        DataError: A number is not finite.
    """
    whole = {"logits": torch.cat(dense.logits, 1), "box_codes": torch.cat(dense.box_codes, 1)}
    if dense.quality_logits is not None:
        whole["quality_logits"] = torch.cat(dense.quality_logits, 1)  # [b n]
    _refuse_not_finite(whole, names)
    if not top_k:
        return {name: _as_halves(tensor) for name, tensor in whole.items()}
    num_classes = whole["logits"].shape[2]
    flat = whole["logits"].flatten(1).float()  # [b nk]
    values, indices = flat.topk(min(top_k, flat.shape[1]), dim=1)  # [b top_k]
    priors = indices // num_classes
    rows = torch.arange(len(flat), device=flat.device)[:, None]
    return {
        "logits": _as_halves(values),
        "indices": indices.to("cpu", torch.int32),
        "floor": _floor(flat, indices).cpu(),
        **{
            name: _as_halves(tensor[rows, priors])  # [b top_k] or [b top_k 4]
            for name, tensor in whole.items()
            if name != "logits"
        },
    }


def _floor(flat: Tensor, kept: Tensor) -> Tensor:
    """Return the logit of the mean probability of all that is not kept, [b]."""
    # In float32, since MPS has no doubles: numbers of one sign, which torch adds up in a tree, lose
    # next to nothing; a test compares millions of them with the sum as doubles.
    total = flat.sigmoid().scatter(1, kept, 0.0).sum(1)  # [b]
    mean = total / max(1, flat.shape[1] - kept.shape[1])
    # Not quite 0 or 1, whose logits are infinite.
    limits = torch.finfo(torch.float32)
    return mean.clamp(min=limits.tiny, max=1 - limits.eps).logit()


def decode_dense(stored: Mapping[str, Tensor], layout: DenseLayout) -> DensePrediction:
    """Return what `encode_dense` was given, as float32, but for what it left out.

    Box codes and quality logits of priors of which no logit was kept are 0.

    Args:
        stored: As `encode_dense` returns it, on any device.
        layout: Of the predictions.
    """
    device = stored["logits"].device
    whole = {name: tensor.float() for name, tensor in stored.items() if name != "indices"}
    if layout.top_k:
        whole = _scattered(whole, stored["indices"].long(), layout)
    sizes = layout.level_sizes
    quality = whole["quality_logits"].split_with_sizes(sizes, 1) if layout.has_quality else None
    return DensePrediction(
        logits=tuple(whole["logits"].split_with_sizes(sizes, 1)),
        box_codes=tuple(whole["box_codes"].split_with_sizes(sizes, 1)),
        priors=tuple(level.to(device) for level in layout.priors),
        activation=layout.activation,
        quality_logits=None if quality is None else tuple(quality),
    )


def _scattered(
    kept: Mapping[str, Tensor], indices: Tensor, layout: DenseLayout
) -> dict[str, Tensor]:
    """Return tensors of all priors from those of the kept logits."""
    count, num_priors, k = len(indices), sum(layout.level_sizes), layout.num_classes
    rows = torch.arange(count, device=indices.device)[:, None]
    logits = kept["floor"][:, None].repeat(1, num_priors * k)  # [b nk]
    logits[rows, indices] = kept["logits"]
    whole = {"logits": logits.reshape(count, num_priors, k)}
    for name in kept.keys() & {"box_codes", "quality_logits"}:
        values = kept[name]
        whole[name] = values.new_zeros(count, num_priors, *values.shape[2:])
        whole[name][rows, indices // k] = values
    return whole


def _as_halves(tensor: Tensor) -> Tensor:
    # A half ends at 65504; as logits, numbers beyond it say nothing more.
    return tensor.clamp(-_LARGEST_HALF, _LARGEST_HALF).to("cpu", torch.float16)


def _refuse_not_finite(whole: Mapping[str, Tensor], names: Sequence[str]) -> None:
    for part, tensor in whole.items():
        is_finite = tensor.flatten(1).isfinite().all(1).tolist()
        if not all(is_finite):
            raise DataError(
                f"{names[is_finite.index(False)]}: the teacher returned {part} that are not "
                "finite. Nothing of this shard was stored. Look at the teacher's weights, or "
                "leave this image out."
            )

"""Networks of timm as feature extractors, with weights from its download or from a file."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from distildet.detectors.probing import not_a_pyramid
from distildet.detectors.weight_names import in_timm_names
from distildet.detectors.weights_file import read_weights, refuse_not_finite
from distildet.errors import WeightsError

_NUM_EXAMPLES = 3
# A line of torch's message: name, shape in the file, shape in the network.
_MISFIT = re.compile(r"size mismatch for (\S+): .*?Size\((\[.*?\])\).*?Size\((\[.*?\])\)")


def timm_features(
    name: str,
    *,
    pretrained: bool | Path,
    state: Mapping[str, Tensor] | None = None,
    **options: Any,
) -> Any:
    """Build a network that returns a list of feature maps.

    Args:
        name: A timm model.
        pretrained: Where its weights come from.
        state: The weights of that file.
        **options: Of `timm.create_model`.

    Raises:
        ConfigError: The network has no feature maps.
        WeightsError: The weights cannot be had.
    """
    if state is not None:
        options["pretrained_cfg_overlay"] = {"state_dict": state, "custom_load": False}
    try:
        return timm.create_model(name, features_only=True, pretrained=bool(pretrained), **options)
    except Exception as error:
        # timm raises whatever its model functions raise: for weights a failed download or a
        # mismatch, otherwise the lack of a feature interface.
        if pretrained:
            raise not_loaded(name, error, pretrained=pretrained) from error
        raise not_a_pyramid(name, str(error)) from error


def timm_features_of_file(name: str, path: Path, indices: Sequence[int]) -> Any:
    """Build a network that returns the maps of some indices, with the weights of a file.

    Raises:
        WeightsError: The file has code in it, or is not of this network, or not all of it, or has
            values that are not finite.
    """
    # Read here, so that no version of timm runs code from the file.
    state = in_timm_names(name, path, read_weights(path).tensors)
    refuse_not_finite(path, state)
    # timm loads what fits and leaves the rest at random. So once more, from the same random
    # numbers, with other values: what is the same then is not from the file.
    other_state = {key: 1.5 * tensor + 0.5 for key, tensor in state.items()}
    with _without_log():
        with torch.random.fork_rng(devices=[]):
            other = timm_features(name, pretrained=path, state=other_state, out_indices=indices)
        body = timm_features(name, pretrained=path, state=state, out_indices=indices)
    others = other.state_dict()
    missing = [
        key
        for key, tensor in body.state_dict().items()
        if tensor.equal(others[key]) and not key.endswith("num_batches_tracked")
    ]
    if missing:
        examples = missing[:_NUM_EXAMPLES]
        reason = f"{len(missing)} tensors of the network are not in it, such as {examples}"
        raise not_loaded(name, reason, pretrained=path)
    return body


@contextmanager
def _without_log() -> Iterator[None]:
    """Keep timm from warning of a classifier in the file, as there is in most."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _in_short(reason: str) -> str:
    """Return a reason with the first of the tensors that do not fit: there may be hundreds."""
    misfits = _MISFIT.findall(reason)
    if not misfits:
        return reason
    shown = "; ".join(
        f"{name} is {found} and must be {expected}"
        for name, found, expected in misfits[:_NUM_EXAMPLES]
    )
    more = "; ..." if len(misfits) > _NUM_EXAMPLES else ""
    return f"{len(misfits)} tensors have another shape than those of the network: {shown}{more}"


def not_loaded(name: str, reason: Exception | str, *, pretrained: bool | Path) -> WeightsError:
    """Return the error for weights of a backbone that cannot be had."""
    in_short = _in_short(str(reason))
    source = f"file {pretrained}" if isinstance(pretrained, Path) else "its library's download"
    return WeightsError(
        f"Backbone {name!r}: weights from {source} could not be loaded ({in_short}). "
        "Give `pretrained` the path of a file of this network's weights, or false for none."
    )

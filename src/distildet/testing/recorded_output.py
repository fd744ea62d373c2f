"""Outputs of detectors that note which of their parts are read, or hold other values."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

from torch import Tensor

from distildet.specs import part_of_level
from distildet.structures import DENSE, DETECTIONS, LOSSES, REGIONS, DetectorOutput

_PARTS_BY_FIELD = {
    "dense": DENSE,
    "regions": REGIONS,
    "losses": LOSSES,
    "detections": DETECTIONS,
}


class RecordedOutput(DetectorOutput):
    """An output that notes in `read` which parts were asked for.

    Args:
        output: What it holds.
    """

    read: set[str]

    def __init__(self, output: DetectorOutput) -> None:
        # A frozen dataclass refuses plain assignment.
        object.__setattr__(self, "read", set())
        for one in fields(output):
            object.__setattr__(self, one.name, getattr(output, one.name))
        object.__setattr__(self, "features", _RecordedFeatures(output.features, self.read))

    def __getattribute__(self, name: str) -> Any:
        """Return a field; note its part. Features note theirs when a level is read."""
        if name in _PARTS_BY_FIELD:
            object.__getattribute__(self, "read").add(_PARTS_BY_FIELD[name])
        return object.__getattribute__(self, name)


class _RecordedFeatures(Mapping[str, Tensor]):
    """Features that note the part of each level that is read."""

    def __init__(self, features: Mapping[str, Tensor], read: set[str]) -> None:
        self._features = features
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        self._read.add(part_of_level(name))
        return self._features[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


def with_tensors(value: Any, change: Callable[[str, Tensor], Tensor], name: str = "") -> Any:
    """Return an output with each tensor replaced.

    Args:
        value: An output, or what is inside of one.
        change: Given the name of the field that a tensor is in, and the tensor.
        name: Of the field that `value` is in.
    """
    if isinstance(value, Tensor):
        return change(name, value)
    if isinstance(value, Mapping):
        return {key: with_tensors(inner, change, name) for key, inner in value.items()}
    if isinstance(value, tuple):
        return tuple(with_tensors(inner, change, name) for inner in value)
    if is_dataclass(value) and not isinstance(value, type):
        changed = {
            one.name: with_tensors(getattr(value, one.name), change, one.name)
            for one in fields(value)
        }
        return replace(value, **changed)
    return value


def tensors_in(output: DetectorOutput) -> list[Tensor]:
    """Return every tensor of an output."""
    found: list[Tensor] = []

    def note(_name: str, tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    with_tensors(output, note)
    return found

"""Registries: name -> class, with the constructor's keyword-only arguments as its options."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from distildet.errors import ConfigError, nearest_names

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes by name; options are checked against the constructor's signature.

    Args:
        kind: What is registered, as it reads in a message, such as "detector".
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Return a class decorator that registers under `name`.

        Raises:
            ConfigError: The name is taken.
        """

        def add(cls: type[T]) -> type[T]:
            if name in self._classes:
                raise ConfigError(f"The {self.kind} name {name!r} is already registered.")
            self._classes[name] = cls
            return cls

        return add

    def names(self) -> tuple[str, ...]:
        """Return all registered names, sorted."""
        return tuple(sorted(self._classes))

    def get(self, name: str) -> type[T]:
        """Return the class of a name.

        Raises:
            ConfigError: Nothing is registered under it; the message has the nearest name.
        """
        if name not in self._classes:
            raise ConfigError(f"Unknown {self.kind} {name!r}. {nearest_names(name, self.names())}")
        return self._classes[name]

    def options(self, name: str) -> dict[str, Any]:
        """Return the options of a class with their defaults (`inspect.Parameter.empty` if due)."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def unknown_options(self, name: str, given: Iterable[str]) -> list[str]:
        """Return one message for each option that the constructor does not take."""
        accepted = self.options(name)
        return [
            f"Unknown option {option!r} of {self.kind} {name!r}. {nearest_names(option, accepted)}"
            for option in given
            if option not in accepted
        ]

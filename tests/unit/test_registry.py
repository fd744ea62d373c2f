import inspect

import pytest

from distildet.errors import ConfigError
from distildet.registry import Registry


class Plain:
    """Takes nothing."""


class Optioned:
    """Takes a positional argument and two options."""

    def __init__(self, classes, *, depth=4, width):
        pass


@pytest.fixture
def registry():
    registry = Registry("thing")
    registry.register("plain")(Plain)
    registry.register("optioned")(Optioned)
    return registry


def test_a_registered_class_is_found_and_returned_unchanged(registry):
    class Third:
        pass

    assert registry.register("third")(Third) is Third
    assert registry.get("third") is Third
    assert registry.names() == ("optioned", "plain", "third")


def test_a_taken_name_is_refused(registry):
    with pytest.raises(ConfigError, match="The thing name 'plain' is already registered"):
        registry.register("plain")(Optioned)

    assert registry.get("plain") is Plain


def test_an_unknown_name_is_answered_with_the_nearest(registry):
    with pytest.raises(
        ConfigError, match=r"Unknown thing 'plian'\. Accepted: optioned, plain\. .*'plain'\?"
    ):
        registry.get("plian")


def test_options_are_the_keyword_only_arguments_with_their_defaults(registry):
    assert registry.options("optioned") == {"depth": 4, "width": inspect.Parameter.empty}
    assert registry.options("plain") == {}


def test_each_unknown_option_has_its_message(registry):
    messages = registry.unknown_options("optioned", ["depht", "width", "classes"])

    assert messages == [
        "Unknown option 'depht' of thing 'optioned'. Accepted: depth, width. Did you mean 'depth'?",
        "Unknown option 'classes' of thing 'optioned'. Accepted: depth, width.",
    ]


def test_an_option_of_a_class_without_options_is_unknown(registry):
    assert registry.unknown_options("plain", ["depth"]) == [
        "Unknown option 'depth' of thing 'plain'. Nothing is accepted here."
    ]

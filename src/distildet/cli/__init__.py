"""The command line: a thin layer over the library. Only this package prints."""

from distildet.cli.app import main

__all__ = ["main"]

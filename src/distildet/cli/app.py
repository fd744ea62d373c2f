"""The command line program: options before the command, errors, exit codes."""

import os
import sys
import traceback
from contextlib import ExitStack, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from distildet.cli.console import is_one_of_several, print_error, print_line, speaks
from distildet.cli.convert import convert
from distildet.cli.demo import demo
from distildet.cli.evaluate import evaluate
from distildet.cli.label import label
from distildet.cli.listing import list_names
from distildet.cli.predict import predict
from distildet.cli.run import run
from distildet.errors import ConfigError, DistildetError, ResourceError

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
# The base of all faults of usage is private: typer has a copy of click of its own.
_USAGE_ERROR: Any = typer.BadParameter.mro()[1]
SHARED = ("run", "label", "evaluate")
"""Commands whose work several processes share."""

app = typer.Typer(
    name="distildet",
    help="Turn any object detector into a small one that is as good as it can be, and prove it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer calls it by position
    if is_wanted:
        from importlib.metadata import version

        print_line(f"distildet {version('distildet')}")
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    *,
    is_version_wanted: Annotated[  # noqa: ARG001 - its callback prints and leaves
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of user errors too.")
    ] = False,
) -> None:
    """Turn any object detector into a small one that is as good as it can be, and prove it."""
    if debug:
        os.environ["DISTILDET_DEBUG"] = "1"
    if is_one_of_several() and context.invoked_subcommand not in SHARED:
        raise ConfigError(
            f"{context.invoked_subcommand}: {os.environ['WORLD_SIZE']} processes were started, and "
            f"only {', '.join(SHARED)} share their work. Start this command without torchrun."
        )


for command in (demo, run, label, convert, predict, evaluate):
    app.command()(command)
app.command("list")(list_names)


def main() -> None:
    """Run the program; every known error becomes one message and its exit code."""
    try:
        _run()
    except DistildetError as error:
        if _is_first_to_say(str(error)):
            if os.environ.get("DISTILDET_DEBUG"):
                traceback.print_exc()
            print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print_error("Stopped. The same command goes on from what is on disk.")
        sys.exit(EXIT_INTERRUPTED)


def _run() -> None:
    """Run the command; the lack of memory, where nobody could make do with less, is no bug."""
    try:
        if is_one_of_several():
            _run_among_others()
        else:
            app()
    except (RuntimeError, MemoryError) as error:
        from distildet.ops.out_of_memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            "Memory ran out. Free some, or use smaller images, batches or models, or fewer "
            "workers; the same command goes on from what is on disk. --debug shows where it was."
        ) from error


def _run_among_others() -> None:
    """Run the command so that help and faults of usage are printed once, not by each process."""
    with ExitStack() as unheard:
        if not speaks():
            nowhere = unheard.enter_context(Path(os.devnull).open("w"))
            unheard.enter_context(redirect_stdout(nowhere))
        try:
            code = app(standalone_mode=False)
        except typer.Abort:
            code = EXIT_INTERRUPTED
        except _USAGE_ERROR as error:
            code = EXIT_USAGE
            # Not always that of rank 0: torchrun ends the others when one has ended.
            if _is_first_to_say(str(error)):
                error.show()
    sys.exit(code)


def _is_first_to_say(message: str) -> bool:
    if not is_one_of_several():
        return True
    from distildet.training.distributed import is_first_to_say

    return is_first_to_say(message)

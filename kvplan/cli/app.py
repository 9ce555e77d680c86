"""The Typer application: the order of the commands, and the only place that catches errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from kvplan import __version__
from kvplan.cli.size import size
from kvplan.core.errors import KvplanError, UsageError

app = typer.Typer(
    name="kvplan",
    help="Plan and calculate the memory of the KV cache of large language models.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("size")(size)


def _add_models_command(arguments: Sequence[str]) -> None:
    """The ``models`` group is only imported when it, or the help, is asked for: sizing must start fast."""
    if not arguments or arguments[0] != "size":
        from kvplan.cli.models import models

        app.add_typer(models, name="models")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kvplan {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = None,
) -> None:
    """Plan and calculate the memory of the KV cache of large language models."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; every error ends here, with its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(run(given))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 ok, 1 internal error, 2 usage or bad input (and 3, 4 by command)."""
    _add_models_command(arguments)
    try:
        code = app(args=list(arguments), prog_name="kvplan", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KvplanError as error:
        return _report(error, arguments)
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it on exit
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own usage errors
            return _report(UsageError(error.format_message(), "see kvplan --help"), arguments)
        if type(error).__name__ == "Abort":
            return 130
        if os.environ.get("KVPLAN_DEBUG"):
            raise
        typer.echo(f"internal error: {type(error).__name__}: {error} (KVPLAN_DEBUG=1 shows where)", err=True)
        return 1


def _report(error: KvplanError, arguments: Sequence[str]) -> int:
    if _wants_json(arguments):
        from kvplan.reports.to_json import render_failure

        command = next((word for word in arguments if not word.startswith("-")), "")
        typer.echo(render_failure(command, error))
    else:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"  {error.hint}", err=True)
    return error.exit_code


def _wants_json(arguments: Sequence[str]) -> bool:
    spelled = " ".join(arguments)
    return "--json" in arguments or any(text in spelled for text in ("--format json", "--format=json", "-f json"))

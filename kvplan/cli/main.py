"""Runs the command line; the only place that catches errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

from kvplan.cli.quick_start import quick_arguments
from kvplan.cli.size import size
from kvplan.core.errors import KvplanError, UsageError


def main() -> None:
    """Run the words of the command line; every error ends here, with its exit code."""
    code = run(sys.argv[1:])
    if "WORLD_SIZE" in os.environ and "torch" in sys.modules:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End one of several processes without the destructors of libraries.

    All is written and the process group is gone by now, but threads that gloo leaves behind now and then abort the
    interpreter on its way out (torch 2.13: "terminate called without an active exception", exit code -6).
    """
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command and return its exit code: 0 ok, 1 internal error, 2 usage or bad input (and 3, 4 by command)."""
    try:
        code = _run(list(words))
        sys.stdout.flush()
        return code
    except KvplanError as error:
        return _report(error, words)
    except SystemExit as stop:  # a command's own exit code, such as that of fit --check
        return stop.code if isinstance(stop.code, int) else 0
    except BrokenPipeError:  # the reader of a pipe has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it on exit
        return 0
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own usage errors; empty where help was printed instead
            problem = error.format_message()
            return _report(UsageError(problem, "see kvplan --help"), words) if problem else UsageError.exit_code
        if type(error).__name__ == "Abort":
            return 130
        if os.environ.get("KVPLAN_DEBUG"):
            raise
        print(f"internal error: {type(error).__name__}: {error} (KVPLAN_DEBUG=1 shows where)", file=sys.stderr)
        return 1


def _run(words: list[str]) -> int:
    if (command := _quick_command(words)) is not None:
        arguments = quick_arguments(command, words[1:])
        if arguments is not None:
            command(**arguments)
            return 0
    from kvplan.cli.app import app

    code = app(args=words, prog_name="kvplan", standalone_mode=False)
    return code if isinstance(code, int) else 0


def _quick_command(words: Sequence[str]) -> Callable[..., None] | None:
    """The commands that start without typer where they are plainly spelled."""
    if words[:1] == ["size"]:
        return size
    if words[:1] == ["fit"]:
        from kvplan.cli.fit import fit

        return fit
    return None


def _report(error: KvplanError, words: Sequence[str]) -> int:
    if _wants_json(words):
        from kvplan.reports.to_json import render_failure

        command = next((word for word in words if not word.startswith("-")), "")
        print(render_failure(command, error))
    else:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
    return error.exit_code


def _wants_json(words: Sequence[str]) -> bool:
    spelled = " ".join(words)
    return "--json" in words or any(text in spelled for text in ("--format json", "--format=json", "-f json"))

"""The Typer application: the order of the commands, and their options in typer's own terms."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from kvplan import __version__
from kvplan.cli.accelerators import list_accelerators, show_accelerator
from kvplan.cli.evaluate import evaluate
from kvplan.cli.fit import fit
from kvplan.cli.models import check, import_model, list_models, show
from kvplan.cli.options import Option
from kvplan.cli.panels import panel_of
from kvplan.cli.recommend import recommend
from kvplan.cli.size import size
from kvplan.cli.verify import verify

app = typer.Typer(
    name="kvplan",
    help="Plan and calculate the memory of the KV cache of large language models.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
accelerators = typer.Typer(help="List and show the accelerators that kvplan knows.", no_args_is_help=True)
models = typer.Typer(help="List, show, import and check model specs.", no_args_is_help=True)


def with_typer_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command like this one, its declared options replaced by typer's."""

    @wraps(command)
    def call(*args: Any, **kwargs: Any) -> None:
        """The command itself: only its signature differs."""
        command(*args, **kwargs)

    signature = inspect.signature(command)
    hints = {name: _in_typers_terms(hint) for name, hint in command.__annotations__.items()}
    parameters = [entry.replace(annotation=hints[name]) for name, entry in signature.parameters.items()]
    call.__annotations__ = hints
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return call


def _in_typers_terms(hint: Any) -> Any:
    declared = getattr(hint, "__metadata__", (None,))[0]
    if not isinstance(declared, Option):
        return hint
    # Without a column that says <str> of nearly everything, the explanations have room.
    panel = panel_of(declared.flags[0])
    return Annotated[
        hint.__origin__, typer.Option(*declared.flags, help=declared.help, metavar="", rich_help_panel=panel)
    ]


def print_version(wanted: bool) -> None:
    """What ``--version`` does."""
    if wanted:
        typer.echo(f"kvplan {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=print_version, is_eager=True)
    ] = False,
) -> None:
    """Plan and calculate the memory of the KV cache of large language models."""


app.command("size")(with_typer_options(size))
app.command("fit")(with_typer_options(fit))
app.command("recommend")(with_typer_options(recommend))
app.command("verify")(with_typer_options(verify))
app.command("evaluate")(with_typer_options(evaluate))
app.add_typer(models, name="models")
for name, command in (("list", list_models), ("show", show), ("import", import_model), ("check", check)):
    models.command(name)(with_typer_options(command))
app.add_typer(accelerators, name="accelerators")
accelerators.command("list")(with_typer_options(list_accelerators))
accelerators.command("show")(with_typer_options(show_accelerator))

"""``kvplan models``: list, show, import and check model specs."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.options import FormatOption, JsonOption, OutputFormat, chosen_format, option

if TYPE_CHECKING:
    from kvplan.core.model import Model


class SortKey(str, Enum):
    """Columns that ``models list`` sorts by."""

    name = "name"
    parameters = "parameters"
    context = "context"
    cache = "cache"


def list_models(
    text: Annotated[str | None, typer.Argument(help="Show only names, aliases and families that contain this.")] = None,
    family: Annotated[str | None, option("--family", help="Show only this family.")] = None,
    kind: Annotated[str | None, option("--kind", help="Show only models with this kind of layer.")] = None,
    sort: Annotated[
        SortKey, option("--sort", "-s", help="Order of the rows: name, parameters, context or cache.")
    ] = SortKey.name,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """All packaged models: parameters, layers, longest context, cache per token."""
    from kvplan.planning.catalogue import catalogue_entries, filter_entries, sort_entries

    entries = sort_entries(filter_entries(catalogue_entries(), text, family, kind), sort.value)
    _write("models list", "models", [entry.fields() for entry in entries], chosen_format(output, as_json))


def show(
    model: Annotated[str, typer.Argument(help="Name, alias, spec, config.json, folder, .gguf or Hub id.")],
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """One model: its spec as YAML, with the source of every figure."""
    from kvplan.specs.reference import resolve_model
    from kvplan.specs.spec_writer import write_spec

    found = resolve_model(model)
    if chosen_format(output, as_json) is OutputFormat.json:
        from kvplan.specs.yaml_file import load_yaml

        _write_json("models show", load_yaml(write_spec(found), found.source), found.notes)
        return
    typer.echo(write_spec(found).rstrip())


def import_model(
    path: Annotated[str, typer.Argument(help="A config.json, a folder that holds one, a .gguf file or a Hub id.")],
    output_path: Annotated[
        Path | None, option("--output", "-o", help="Write the spec here instead of to stdout.")
    ] = None,
    name: Annotated[str | None, option("--name", help="Name of the spec; else the file's or folder's.")] = None,
    exact_parameters: Annotated[
        bool, option("--exact-parameters", help="Count with the model's own code, by transformers (an extra).")
    ] = False,
    force: Annotated[bool, option("--force", help="Overwrite an existing file.")] = False,
) -> None:
    """Turn a config.json or a GGUF header into a model spec."""
    from dataclasses import replace

    from kvplan.core.errors import UsageError
    from kvplan.specs.reference import resolve_model
    from kvplan.specs.spec_writer import write_spec

    if output_path is not None and output_path.exists() and not force:
        raise UsageError(f"{output_path} exists", "add --force to overwrite it")
    model = resolve_model(path)
    if exact_parameters:
        model = _count_exactly(model, Path(path))
    text = write_spec(replace(model, name=name) if name else model)
    for note in model.notes:
        typer.echo(f"note: {note}", err=True)
    if output_path is None:
        typer.echo(text.rstrip())
        return
    try:
        output_path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output_path}: cannot be written ({error.strerror})") from None
    typer.echo(f"wrote {output_path}", err=True)


def _count_exactly(model: "Model", path: Path) -> "Model":
    from kvplan.core.errors import UsageError
    from kvplan.specs.config_json import load_config

    config = path / "config.json" if path.is_dir() else path
    if config.suffix != ".json" or not config.is_file():
        raise UsageError("--exact-parameters needs a config.json", "give the file, or the folder that holds it")
    try:
        from kvplan.runtime.meta_parameters import exact_model
    except ImportError as error:
        raise UsageError(
            f"--exact-parameters needs {error.name}", "install the extra: pip install '.[transformers]' in a checkout"
        ) from None
    return exact_model(model, load_config(config))


def check(
    path: Annotated[Path, typer.Argument(help="A spec YAML, a config.json, a folder or a .gguf file.")],
    as_json: JsonOption = False,
) -> None:
    """Check a spec or a config: every mistake at once, with its path."""
    from kvplan.core.errors import FileError
    from kvplan.specs.reference import resolve_model

    if not path.exists():
        raise FileError(f"{path}: no such file")
    model = resolve_model(str(path))
    summary = {
        "name": model.name,
        "family": model.family,
        "num_layers": model.architecture.num_layers,
        "num_parameters": model.architecture.parameters.total if model.architecture.parameters else None,
    }
    if as_json:
        _write_json("models check", summary, model.notes)
        return
    for note in model.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{path}: good ({model.name}, {model.family}, {model.architecture.num_layers} layers)")


def _write(command: str, key: str, rows: list[dict[str, Any]], output: OutputFormat) -> None:
    if output is OutputFormat.json:
        _write_json(command, {key: rows})
    elif output is OutputFormat.csv:
        from kvplan.reports.to_csv import render_csv

        typer.echo(render_csv(list(rows[0]) if rows else [], [list(row.values()) for row in rows]))
    elif output is OutputFormat.markdown:
        from kvplan.reports.model_rows import MODEL_HEADER, model_row
        from kvplan.reports.to_markdown import markdown_table

        typer.echo(markdown_table(MODEL_HEADER, [model_row(row) for row in rows]))
    else:
        from kvplan.reports.model_rows import MODEL_HEADER, model_row
        from kvplan.reports.to_table import grid, stdout_console

        stdout_console().print(grid(MODEL_HEADER, [model_row(row) for row in rows], left_columns=1))
        typer.echo(f"{len(rows)} models", err=True)


def _write_json(command: str, result: dict[str, Any], warnings: tuple[str, ...] = ()) -> None:
    from kvplan.reports.to_json import render_success

    typer.echo(render_success(command, result, warnings))

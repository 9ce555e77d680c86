"""``kvplan accelerators``: list and show the devices that kvplan knows, with the source of each figure."""

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvplan.cli.options import FormatOption, JsonOption, OutputFormat, chosen_format, option

if TYPE_CHECKING:
    from kvplan.core.accelerator import Accelerator


class AcceleratorSortKey(str, Enum):
    """Columns that ``accelerators list`` sorts by."""

    name = "name"
    memory = "memory"
    bandwidth = "bandwidth"


def list_accelerators(
    text: Annotated[str | None, typer.Argument(help="Show only names and aliases that contain this.")] = None,
    vendor: Annotated[str | None, option("--vendor", help="Show only this vendor.")] = None,
    min_memory: Annotated[str | None, option("--min-memory", help="Show only devices with at least this.")] = None,
    sort: Annotated[
        AcceleratorSortKey, option("--sort", "-s", help="Order of the rows: name, memory or bandwidth.")
    ] = AcceleratorSortKey.name,
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """All packaged accelerators: memory as the runtime reports it, bandwidth, dense TFLOP/s, link."""
    from kvplan.core.units import parse_bytes
    from kvplan.planning.accelerators import filter_accelerators, packaged_accelerators, sort_accelerators

    least = None if min_memory is None else parse_bytes(min_memory, "--min-memory")
    kept = filter_accelerators(packaged_accelerators(), text, vendor, least)
    _write_list(sort_accelerators(kept, sort.value), chosen_format(output, as_json))


def show_accelerator(
    accelerator: Annotated[str, typer.Argument(help="Name, alias, YAML file, or auto: what this machine has.")],
    output: FormatOption = OutputFormat.table,
    as_json: JsonOption = False,
) -> None:
    """One accelerator: every value with its source."""
    from kvplan.specs.accelerator import parse_accelerator

    device, count = parse_accelerator(accelerator)
    _write_detail(device, count, chosen_format(output, as_json))


def _write_list(devices: list["Accelerator"], output: OutputFormat) -> None:
    from kvplan.reports.accelerator_rows import ACCELERATOR_HEADER, accelerator_fields, accelerator_row, flat_fields

    if output is OutputFormat.json:
        _write_json("accelerators list", {"accelerators": [accelerator_fields(device) for device in devices]})
    elif output is OutputFormat.csv:
        from kvplan.reports.to_csv import render_csv

        lines = [flat_fields(device) for device in devices]
        typer.echo(render_csv(list(lines[0]) if lines else [], [list(line.values()) for line in lines]))
    elif output is OutputFormat.markdown:
        from kvplan.reports.to_markdown import markdown_table

        typer.echo(markdown_table(ACCELERATOR_HEADER, [accelerator_row(device) for device in devices]))
    else:
        from kvplan.reports.to_table import grid, stdout_console

        rows = [accelerator_row(device) for device in devices]
        stdout_console().print(grid(ACCELERATOR_HEADER, rows, left_columns=1))
        typer.echo(f"{len(devices)} accelerators; rates are dense, in TFLOP/s", err=True)


def _write_detail(device: "Accelerator", count: int, output: OutputFormat) -> None:
    from kvplan.reports import accelerator_rows as rows

    if output is OutputFormat.json:
        _write_json("accelerators show", {**rows.accelerator_fields(device), "count": count})
    elif output is OutputFormat.csv:
        from kvplan.reports.to_csv import render_csv

        typer.echo(render_csv(rows.CSV_DETAIL_HEADER, rows.detail_fields(device)))
    elif output is OutputFormat.markdown:
        from kvplan.reports.to_markdown import markdown_table

        typer.echo(f"**{rows.heading(device)}**\n")
        typer.echo(markdown_table(rows.DETAIL_HEADER, rows.detail_rows(device)))
        typer.echo("\n" + markdown_table(("values", "source"), rows.source_lines(device)))
        typer.echo("".join(f"\n{note}\n" for note in device.notes).rstrip())
    else:
        _print_detail(device, count)


def _print_detail(device: "Accelerator", count: int) -> None:
    from kvplan.reports import accelerator_rows as rows
    from kvplan.reports.to_table import grid, stdout_console

    typer.echo(f"{count} x {rows.heading(device)}\n" if count > 1 else f"{rows.heading(device)}\n")
    stdout_console().print(grid(rows.DETAIL_HEADER, rows.detail_rows(device), left_columns=3))
    if device.sources:
        typer.echo("\nSources")  # not in a grid, which would break the addresses
    for values, source in rows.source_lines(device):
        typer.echo(f"  {values}: {source}")
    for note in device.notes:
        typer.echo(f"\n{note}")


def _write_json(command: str, result: dict[str, Any]) -> None:
    from kvplan.reports.to_json import render_success

    typer.echo(render_success(command, result))

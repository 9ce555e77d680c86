"""``kvplan fit --search``: the smallest hardware that fits."""

import sys
from typing import TYPE_CHECKING

from kvplan.cli.options import OutputFormat

if TYPE_CHECKING:
    from kvplan.cli.fit import Output
    from kvplan.planning.fit_request import FitWords
    from kvplan.planning.hardware_search import SearchResult

SHOWN = 20
"""Rows of the table; JSON and CSV have all."""


def search(words: "FitWords", output: "Output") -> bool:
    """Print the ranked hardware; whether any fits."""
    from kvplan.core.errors import UsageError
    from kvplan.engines import get_engine
    from kvplan.planning.accelerators import packaged_accelerators
    from kvplan.planning.fit_request import search_words
    from kvplan.planning.hardware_search import search_hardware
    from kvplan.specs.reference import resolve_model

    if words.model is None:
        raise UsageError("--model is missing", "name a model")
    model, engine = resolve_model(words.model), get_engine(words.engine)
    result = search_hardware(model, search_words(model, words), engine, packaged_accelerators())
    _write(result, model.name, output)
    return bool(result.found)


def _write(result: "SearchResult", model: str, output: "Output") -> None:
    from kvplan.reports.search_rows import FOUND_HEADER, found_row, rejected_lines, search_fields, search_verdict

    rows = [found_row(found) for found in result.found]
    if output.output is OutputFormat.json:
        from kvplan.reports.to_json import render_success

        print(render_success("fit", search_fields(result, output.explain)))
        return
    if output.output is OutputFormat.csv:
        from kvplan.reports.to_csv import render_csv

        print(render_csv(FOUND_HEADER, rows))
        return
    if output.output is OutputFormat.markdown:
        from kvplan.reports.to_markdown import markdown_table

        print(markdown_table(FOUND_HEADER, rows))
    else:
        from kvplan.reports.to_table import grid, stdout_console

        print(search_verdict(result, model))
        if rows:
            print()
            stdout_console().print(grid(FOUND_HEADER, rows[:SHOWN], left_columns=1))
    if len(rows) > SHOWN and output.output is OutputFormat.table:
        print(f"note: {len(rows) - SHOWN} more fit (--json shows all)", file=sys.stderr)
    if output.explain:
        print("\n" + "\n".join(rejected_lines(result)))

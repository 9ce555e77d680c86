"""CSV: one line for each request, exact bytes, the same names as the JSON contract."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from kvplan.core.request import SizeResult
from kvplan.reports.to_json import size_fields

_RESULT_FIELDS = (
    "textbook_bytes",
    "geometry_bytes",
    "uncompressed_bytes",
    "allocated_bytes",
    "allocated_bytes_per_sequence",
    "bytes_per_token",
    "fixed_bytes_per_sequence",
    "bytes_per_block",
    "blocks_per_sequence",
    "num_blocks",
    "capacity_tokens",
    "max_concurrency",
    "weights_bytes",
    "kv_share_ratio",
    "saving_ratio",
    "certainty",
)


def render_csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lines of comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def size_csv(results: Sequence[SizeResult]) -> str:
    """One line for each request."""
    rows = []
    for result in results:
        values = size_fields(result)
        rows.append([values["model"]["name"], *values["request"].values(), *(values[name] for name in _RESULT_FIELDS)])
    request_names = list(size_fields(results[0])["request"])
    return render_csv(["model", *request_names, *_RESULT_FIELDS], rows)

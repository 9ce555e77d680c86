from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvplan.specs.accelerator import accelerator_names

Run = Callable[..., Any]


def listed(kvplan: Run, *options: str) -> list[dict[str, Any]]:
    done = kvplan("accelerators", "list", "--json", *options)
    assert done.code == 0, done.err
    rows: list[dict[str, Any]] = json.loads(done.out)["result"]["accelerators"]
    return rows


def test_all_are_listed_by_name(kvplan: Run) -> None:
    assert [row["name"] for row in listed(kvplan)] == accelerator_names()


@pytest.mark.parametrize(
    ("key", "field"), [("memory", "memory_bytes"), ("bandwidth", "bandwidth_bytes_per_second")]
)  # fmt: skip
def test_the_largest_comes_first_and_the_unknown_last(kvplan: Run, key: str, field: str) -> None:
    figures = [row[field] or 0 for row in listed(kvplan, "--sort", key)]
    assert figures == sorted(figures, reverse=True)


def test_filters_add_up(kvplan: Run) -> None:
    rows = listed(kvplan, "--vendor", "NVIDIA", "--min-memory", "100GiB")
    assert {row["vendor"] for row in rows} == {"nvidia"}
    assert "h200-sxm" in {row["name"] for row in rows}
    assert all(row["memory_bytes"] >= 100 * 2**30 for row in rows)
    assert [row["name"] for row in listed(kvplan, "hbm3")] == ["h100-sxm"]  # an alias
    assert listed(kvplan, "no such device") == []


@pytest.mark.parametrize("option", [["--vendor", "nvidea"], ["--min-memory", "much"], ["--sort", "price"]])
def test_an_unknown_filter_is_refused(kvplan: Run, option: list[str]) -> None:
    done = kvplan("accelerators", "list", *option)
    assert done.code == 2
    assert done.err.startswith("error: ")


def test_the_table_shows_memory_speed_and_rates(kvplan: Run) -> None:
    done = kvplan("accelerators", "list", "h100", "--sort", "memory")
    lines = [line.split() for line in done.out.splitlines()]
    assert lines[0] == ["accelerator", "memory", "GB/s", "bf16", "fp8", "fp4", "link", "GB/s"]
    assert ["h100-sxm", "79.18", "GiB", "3,350", "989", "1,979", "450"] in lines
    assert "accelerators" in done.err
    assert max(map(len, done.out.splitlines())) <= 80


def test_csv_and_markdown_have_a_line_for_each(kvplan: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(kvplan("accelerators", "list", "-f", "csv").out)))
    assert [row["name"] for row in rows] == accelerator_names()
    h200 = next(row for row in rows if row["name"] == "h200-sxm")
    assert (h200["memory_bytes"], h200["peak_flops_fp4"], h200["compute_capability"]) == ("150109880320", "", "9.0")
    assert "h200-141gb" in h200["aliases"].split()
    markdown = kvplan("accelerators", "list", "--format", "markdown").out.splitlines()
    assert len(markdown) == len(rows) + 2


def test_show_tells_every_value_with_its_source(kvplan: Run) -> None:
    out = kvplan("accelerators", "show", "H100-SXM5").out
    for text in ("85,017,493,504 bytes", "989 TFLOP/s", "450 GB/s", "NVLink 4", "driver 580.159.04", "h100_sxm.yaml"):
        assert text in out
    result = json.loads(kvplan("accelerators", "show", "8xh100", "--json").out)["result"]
    assert (result["name"], result["count"], result["memory_bytes"]) == ("h100-sxm", 8, 85017493504)
    known = {name for name, value in result.items() if value not in (None, False)} - {"sources"}
    assert set(result["sources"]) <= known


def test_a_source_stands_beside_each_value_in_csv(kvplan: Run) -> None:
    rows = list(csv.DictReader(io.StringIO(kvplan("accelerators", "show", "mi300x", "-f", "csv").out)))
    sources = {row["field"]: row["source"] for row in rows}
    assert "206141652992" in sources["memory_bytes"]
    for field in ("bandwidth_bytes_per_second", "gfx_target", "peak_flops.fp8"):
        assert sources[field].startswith("https://"), field
    assert "peak_flops.fp4" not in sources


def test_every_device_can_be_shown_in_every_format(kvplan: Run) -> None:
    for name in accelerator_names():
        for output in ("table", "json", "csv", "markdown"):
            done = kvplan("accelerators", "show", name, "--format", output)
            assert (done.code, done.err) == (0, ""), name
            assert name in done.out


def test_show_takes_a_file_of_ones_own(kvplan: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nmemory_bytes: 80GiB\n", encoding="utf-8")
    assert "80.00 GiB" in kvplan("accelerators", "show", str(path)).out


def test_an_unknown_device_is_refused_with_near_names(kvplan: Run) -> None:
    done = kvplan("accelerators", "show", "mi300xx")
    assert done.code == 2
    assert "did you mean mi300x" in done.err
    failure = json.loads(kvplan("accelerators", "show", "mi300xx", "--json").out)
    assert failure["error"]["code"] == "unknown_name"

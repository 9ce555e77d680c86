"""The kernels' results on an NVIDIA H200 (``python -m kvplan.runtime.bench``), as stored and as the README says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
BENCH: dict[str, Any] = json.loads((ROOT / "tests" / "vectors" / "kernels_h200.json").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
LEAST_SPEEDUP = {"int8_per_token_head": 1.6, "fp8_per_token_head": 1.6, "fp8_e4m3": 1.6, "int4_per_token_head": 2.5}
ATTENTION = [r for r in BENCH["results"] if r["what"] == "fused attention" and r["cache_format"] in LEAST_SPEEDUP]


def test_the_results_are_those_of_an_h200_with_versions() -> None:
    assert BENCH["versions"]["device"] == "NVIDIA H200"
    assert {"torch", "triton", "driver"} <= set(BENCH["versions"])
    assert len(ATTENTION) == 16


@pytest.mark.parametrize("result", ATTENTION, ids=lambda r: f"{r['cache_format']}-{r['shape']['tokens']}")
def test_a_smaller_cache_is_faster_and_no_less_right(result: dict[str, Any]) -> None:
    shape = (result["shape"]["tokens"], result["shape"]["heads"])
    others = [r["seconds"] for r in BENCH["results"] if r["what"].startswith(("sdpa", "flex")) and _shape(r) == shape]
    assert result["speedup"] == pytest.approx(min(others) / result["seconds"])
    assert result["speedup"] >= LEAST_SPEEDUP[result["cache_format"]]
    assert result["relative_error"] <= result["torch_relative_error"]


@pytest.mark.parametrize("result", [r for r in BENCH["results"] if r["what"] in ("quantize", "dequantize")])
def test_rows_are_coded_at_four_fifths_of_the_copy_bandwidth(result: dict[str, Any]) -> None:
    assert result["copy_ratio"] >= 0.8


def test_the_readme_shows_these_results() -> None:
    for result in ATTENTION:
        assert f"{result['speedup']:.2f}x" in README


def _shape(result: dict[str, Any]) -> tuple[int, int]:
    return (result["shape"]["tokens"], result["shape"]["heads"])

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
CONFIGS = Path(__file__).parent.parent / "assets" / "configs"


def test_models_are_listed_filtered_and_sorted(kvplan: Run) -> None:
    everything = json.loads(kvplan("models", "list", "--json").out)["result"]["models"]
    assert len(everything) >= 120
    latent = json.loads(kvplan("models", "list", "--kind", "latent", "--sort", "parameters", "--json").out)
    rows = latent["result"]["models"]
    assert "deepseek-v3" in {row["name"] for row in rows}
    assert [row["num_parameters"] for row in rows] == sorted((row["num_parameters"] for row in rows), reverse=True)
    assert all("latent" in row["kinds"] for row in rows)


def test_the_list_finds_an_alias(kvplan: Run) -> None:
    out = kvplan("models", "list", "llama-70b").out
    assert "llama-3.1-70b" in out


@pytest.mark.parametrize("option", [["--family", "lama"], ["--kind", "latnt"], ["--sort", "size"]])
def test_an_unknown_filter_is_refused(kvplan: Run, option: list[str]) -> None:
    done = kvplan("models", "list", *option)
    assert done.code == 2
    assert done.err.startswith("error: ")


def test_show_prints_a_spec_that_check_accepts(kvplan: Run, tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(kvplan("models", "show", "deepseek-v3").out, encoding="utf-8")
    done = kvplan("models", "check", str(path))
    assert done.code == 0, done.err
    assert "good" in done.out
    assert json.loads(kvplan("models", "show", "deepseek-v3", "--json").out)["result"]["num_layers"] == 61


def test_an_imported_config_sizes_like_the_config(kvplan: Run, tmp_path: Path) -> None:
    config = CONFIGS / "google__gemma-4-31B-it.json"
    spec = tmp_path / "gemma.yaml"
    assert kvplan("models", "import", str(config), "-o", str(spec)).code == 0
    sizes = [
        json.loads(kvplan("size", "-m", str(path), "-c", "256k", "--json").out)["result"]["geometry_bytes"]
        for path in (config, spec)
    ]
    assert sizes == [22313697280, 22313697280]
    again = kvplan("models", "import", str(config), "-o", str(spec))
    assert again.code == 2
    assert "--force" in again.err
    assert kvplan("models", "import", str(config), "-o", str(spec), "--force", "--name", "mine").code == 0
    assert "name: mine" in spec.read_text(encoding="utf-8")


def test_check_reports_all_mistakes_at_once(kvplan: Run, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "name: toy\nhidden_size: -1\nnum_heads: eight\nkinds:\n  win: {kind: sliding_window, num_kv_heads: 4,"
        " head_dim: 64, windw: 8}\nlayers:\n  - {pattern: [win], repeat: 2}\nnum_layers: 3\n",
        encoding="utf-8",
    )
    done = kvplan("models", "check", str(path))
    assert done.code == 2
    for problem in ("hidden_size", "num_heads", "windw"):
        assert problem in done.err


def test_check_of_nothing_is_refused(kvplan: Run, tmp_path: Path) -> None:
    assert "no such file" in kvplan("models", "check", str(tmp_path / "none.yaml")).err

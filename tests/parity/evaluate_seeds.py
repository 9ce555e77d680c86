"""How much the metrics of ``kvplan evaluate`` vary over seeds, on kvplan's demo model: ``evaluate_seeds.json``.

    python tests/parity/evaluate_seeds.py tests/vectors/evaluate_seeds.json

For each method and seed: perplexity increase and mean KL divergence over a few texts, and needle recall over a small
grid, with the settings that are stored beside them. One thread, on the CPU; a minute.
"""

from __future__ import annotations

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers

from kvplan.planning.evaluate import evaluate_records
from kvplan.runtime.demo.load import demo_folder
from kvplan.runtime.evaluate.harness import ModelHandle, load_model
from kvplan.runtime.evaluate.methods import Method, parse_methods
from kvplan.runtime.evaluate.needle import NeedleSettings, needle
from kvplan.runtime.evaluate.perplexity import PerplexitySettings, perplexity

METHODS = "int8,int4,int2,window:256,sinks=4,snapkv:keep=0.3,window=16,kernel=13"
SEEDS = (0, 100, 200, 300, 400)
TEXTS = {"prefix_tokens": 448, "suffix_tokens": 64, "chunk_tokens": 16, "num_samples": 4}
NEEDLES = {"lengths_tokens": [768], "num_keys": [4], "per_cell": 2}
METRICS = ("perplexity_increase_ratio", "kld_mean", "needle_recall_ratio")


def measured(handle: ModelHandle, seed: int) -> dict[str, dict[str, float]]:
    """Every metric of every method, and the recall of the baseline."""
    grid = {name: tuple(value) if isinstance(value, list) else value for name, value in NEEDLES.items()}
    pieces = perplexity(handle, PerplexitySettings(**TEXTS, seed=seed))
    pieces += needle(handle, NeedleSettings(**grid, seed=seed))
    methods = (Method(), *parse_methods(METHODS))
    records = [record for piece in pieces for record in piece.measure(methods)]
    found = evaluate_records(records, model="", device="cpu", versions={}, settings={}, context_tokens=768)
    reports = (found.baseline, *found.methods)
    return {
        report.method: {
            name: float(f"{estimate.value:.4g}") for name in METRICS if (estimate := getattr(report, name)) is not None
        }
        for report in reports
    }


def main(path: Path) -> None:
    """Measure every seed and write the file."""
    torch.set_num_threads(1)
    handle = load_model(str(demo_folder()), device="cpu")
    by_seed = {seed: measured(handle, seed) for seed in SEEDS}
    values: dict[str, Any] = {
        method: {name: [by_seed[seed][method][name] for seed in SEEDS] for name in by_seed[SEEDS[0]][method]}
        for method in by_seed[SEEDS[0]]
    }
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    head = {"versions": versions, "date": date.today().isoformat(), "seeds": SEEDS, "texts": TEXTS, "needles": NEEDLES}
    path.write_text(json.dumps({**head, "values": values}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

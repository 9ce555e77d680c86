"""Starts llama.cpp on skeletons of models and keeps the lines that it logs of its caches.

A skeleton is a GGUF file with the attention shapes of a published model in few layers, and a tiny vocabulary,
feed-forward block and number of experts. Only its header is written here; the script that ``kvplan verify --against
llamacpp`` runs finds the tensors.

Run where llama-cpp-python and gguf are installed (kvplan need not be):

    python tests/parity/llamacpp_skeletons.py --out tests/vectors/llamacpp_python_0.3.36.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import llama_cpp
from llamacpp_header import OPTIONS, Skeleton
from llamacpp_shapes import SKELETONS

sys.path.append(str(Path(__file__).parents[2] / "kvplan" / "runtime" / "verify" / "engine_scripts"))
import start_llamacpp

VERSION = llama_cpp.__version__


def run_skeleton(skeleton: Skeleton) -> dict[str, Any]:
    """What llama.cpp logs for a skeleton under all options."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{skeleton.name}.gguf"
        start_llamacpp.write_skeleton(skeleton.arch, skeleton.header, skeleton.optional_tensors, path)
        model = start_llamacpp.load(path)
        runs = [
            {"options": options, **start_llamacpp.run_options(model, options)}
            for options in (*OPTIONS, *skeleton.options)
        ]
        llama_cpp.llama_model_free(model)
    return {
        "name": skeleton.name,
        "arch": skeleton.arch,
        "family": skeleton.family,
        "layers": skeleton.layers,
        "draft_layers": skeleton.draft_layers,
        "runs": runs,
    }


def main() -> None:
    """Write the vectors of all skeletons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", help="the name of one skeleton")
    arguments = parser.parse_args()
    start_llamacpp.listen()
    rows = [run_skeleton(skeleton) for skeleton in SKELETONS if arguments.only in (None, skeleton.name)]
    head = {"engine": "llama-cpp-python", "version": VERSION, "llama.cpp": "0.5.0", "device": "CPU"}
    body = ",\n".join(json.dumps(row) for row in rows)
    text = json.dumps(head)[:-1] + ',\n"rows": [\n' + body + "\n]}\n"
    arguments.out.write_text(text, encoding="utf-8")
    print(f"{len(rows)} skeletons, {sum(len(row['runs']) for row in rows)} contexts")


if __name__ == "__main__":
    main()

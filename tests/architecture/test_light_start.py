"""Sizing a packaged model must not pay for what it does not use."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys
from kvplan.cli.main import run
code = run(["size", "--model", "llama-70b", "--ctx", "128k", "--json"])
heavy = {"torch", "transformers", "numpy", "pydantic", "rich", "huggingface_hub", "typer"} & set(sys.modules)
print("HEAVY", code, sorted(heavy), file=sys.stderr)
"""


def test_size_of_a_packaged_model_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("HEAVY 0 []"), done.stderr

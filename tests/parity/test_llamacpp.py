"""llama.cpp itself on the skeletons: what it logs today is what the vectors say, and so what kvplan predicts.

Needs llama-cpp-python (which compiles llama.cpp) and gguf; ``tests/engines/test_llamacpp_vectors.py`` compares kvplan
with the stored lines.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

VECTORS = Path(__file__).parent.parent / "vectors" / "llamacpp_python_0.3.36.json"
STORED = json.loads(VECTORS.read_text(encoding="utf-8"))
ROWS = {row["name"]: row for row in STORED["rows"]}

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def skeletons() -> Any:
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("gguf", reason="gguf is not installed")
    import llamacpp_skeletons

    if STORED["version"] != llamacpp_skeletons.VERSION:
        pytest.skip(f"the vectors are those of llama-cpp-python {STORED['version']}")
    llamacpp_skeletons.start_llamacpp.listen()
    return llamacpp_skeletons


@pytest.mark.parametrize("name", ROWS)
def test_llamacpp_logs_what_the_vectors_say(skeletons: Any, name: str) -> None:
    skeleton = next(entry for entry in skeletons.SKELETONS if entry.name == name)
    said = skeletons.run_skeleton(skeleton)
    for context in said["runs"]:
        context.pop("context_bytes", None)  # for test_verify_against.py: only newer releases account for it, on Linux
    assert said == ROWS[name]


def test_every_skeleton_has_vectors(skeletons: Any) -> None:
    assert {entry.name for entry in skeletons.SKELETONS} == set(ROWS)

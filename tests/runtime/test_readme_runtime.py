"""The README's Python for ``kvplan.runtime`` runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

README = (Path(__file__).parent.parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_readmes_example_quantizes_and_generates(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "CompressedCache" in text]
    names: dict[str, Any] = {}
    exec(block, names)
    assert capsys.readouterr().out.strip() == re.search(r"# (\d+ torch\.Size.*)", block).group(1)  # type: ignore[union-attr]
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, dtype="float32",
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config).eval()
    inputs = {"input_ids": torch.arange(40)[None] % 64, "max_new_tokens": 3, "do_sample": False}
    assert names["answer"](model, inputs).shape == (1, 43)
